"""GEMM on tensor cores: blocks of warps, and stages of shared memory copied ahead.

Halves are multiplied as they are and summed in float32. A float32 operand is the sum of two tf32
numbers, and three of their four products are summed: `codegen.cuda.kernels.tensor_gemm` has the
numerics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvmlayers.spaces.choices import Decisions
from tvmlayers.targets import CudaTarget
from tvmlayers.targets.cuda import WARP

STAGES = (1, 2, 3, 4)  # tensor cores take two at least, the other kernels one
_LEAST_STAGES = 2


@dataclass(frozen=True)
class Operand:
    """What tensor cores multiply for a layer of some dtype.

    in_word: elements, neighbours along k, in a register of 32 bits; depth: elements of the packed
    weight that lie side by side along k; products: of tensor cores for one of the layer's; least_k:
    shorter sums are left to the other kernels; steps: of k that a stage can hold.
    """

    name: str
    in_word: int
    depth: int
    products: int
    least_k: int
    steps: tuple[int, ...]


# A product of split numbers may be off by 8 units of rounding, and a float32 sum of n products by n
# of them: from k = 16 on there is room.
_TF32 = Operand("tf32", 1, 1, 3, 16, (8, 16, 32))
OPERANDS = {
    "float32": _TF32,
    "float16": Operand("f16", 2, 4, 1, 1, (16, 32, 64)),
    "bfloat16": Operand("bf16", 2, 4, 1, 1, (16, 32, 64)),
}
TENSOR = _TF32.name  # the kind of tile that float32 has
KINDS = tuple(f"{operand.name}:" for operand in OPERANDS.values())
# Rows, columns and words of k of one instruction: m16n8k8 of tf32, m16n8k16 of halves.
MMA = (16, 8, 8)
# Words between rows of x and of w in shared memory beyond their own: the lanes of a warp, which
# read pairs of eight rows of x and words of eight rows of w at once, then find them in other banks.
X_PADDING = {8: 0, 16: 8, 32: 8}
W_PADDING = 4
# Halves go without: of each eight words of a row the place changes with the row. Lanes read pairs
# of words, sixteen lanes at once, those of four rows of x or of w.
_PLACES = 8
# Rows and columns of a block, rows and columns of a warp, warps that share k out.
_TILES = (
    (128, 128, 64, 32, 1),
    (128, 64, 32, 32, 1),
    (64, 64, 32, 32, 1),
    (64, 64, 64, 32, 2),
    (64, 32, 32, 16, 1),
    (64, 32, 32, 32, 2),
    (32, 32, 16, 16, 1),
    (32, 32, 32, 32, 4),
    (64, 16, 16, 16, 1),
    (32, 16, 32, 16, 4),
)
# Of halves only. Warps that read less of shared memory for a product, whose sums leave no room for
# float32's two parts; and for few rows, where the weight takes longer to read than to multiply and
# float32 has other kernels.
_HALF_TILES = (
    (128, 128, 64, 64, 1),
    *_TILES,
    (16, 64, 16, 16, 1),
    (16, 32, 16, 32, 4),
    (16, 16, 16, 16, 4),
)


@dataclass(frozen=True)
class TensorTile:
    """Rows and columns of a block of warps, and of one warp; slices: warps that share k out."""

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    slices: int
    operand: Operand = _TF32

    @property
    def name(self) -> str:
        """As a decision says it, such as "tf32:128x64:32x32" or "f16:32x32:32x32/4"."""
        of_warp = f"{self.warp_rows}x{self.warp_columns}"
        shared_out = f"/{self.slices}" if self.slices > 1 else ""
        return f"{self.operand.name}:{self.rows}x{self.columns}:{of_warp}{shared_out}"

    @property
    def grid(self) -> tuple[int, int]:
        """Warps along the rows and along the columns."""
        return self.rows // self.warp_rows, self.columns // self.warp_columns

    @property
    def warps(self) -> int:
        """Warps of a block."""
        along_rows, along_columns = self.grid
        return along_rows * along_columns * self.slices

    @property
    def sums(self) -> int:
        """Elements of the result that a thread sums."""
        return self.warp_rows * self.warp_columns // WARP


@dataclass(frozen=True)
class Pipeline:
    """Stages of shared memory, each of `k_steps` of k."""

    tile: TensorTile
    k_steps: int
    stages: int

    @property
    def words(self) -> int:
        """Words of a row of x in a stage."""
        return self.k_steps // self.tile.operand.in_word

    @property
    def x_stride(self) -> int:
        """Words from row to row of x in a stage."""
        return self.words + (X_PADDING[self.words] if self.tile.operand.in_word == 1 else 0)

    def x_at(self, row: Any, word: Any) -> Any:
        """Where a word of a row of x lies, counted from the first row; ints or expressions."""
        if self.tile.operand.in_word > 1:
            # 32 banks hold four rows of 8 words, two of 16 or one of 32.
            word ^= {8: 0, 16: row >> 1 & 1, 32: row & 3}[self.words] * _PLACES
        return row * self.x_stride + word

    @property
    def w_rows(self) -> int:
        """Rows of w in a stage: steps of k, or as many at a time as lie side by side."""
        return self.k_steps // self.tile.operand.depth

    @property
    def w_words(self) -> int:
        """Words of a column in a row of w."""
        return self.tile.operand.depth // self.tile.operand.in_word

    @property
    def w_stride(self) -> int:
        """Words from row to row of w in a stage."""
        padding = W_PADDING if self.tile.operand.in_word == 1 else 0
        return self.tile.columns * self.w_words + padding

    def w_at(self, row: Any, word: Any) -> Any:
        """Where a word of a row of w lies, as `x_at`."""
        if self.tile.operand.in_word > 1:
            word ^= (row & 3) * _PLACES
        return row * self.w_stride + word

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block, with what slices of k are summed in."""
        stage = self.tile.rows * self.x_stride + self.w_rows * self.w_stride
        handed_over = (self.tile.slices - 1) * self.tile.rows * self.tile.columns
        return 4 * (self.stages * stage + handed_over)


def k_unit(dtype: str) -> int:
    """What the rows of a packed weight are a multiple of: the most steps of k at a time."""
    return max(OPERANDS.get(dtype, _TF32).steps)


def depth_of(dtype: str) -> int:
    """How many steps of k lie side by side in a packed weight."""
    return OPERANDS[dtype].depth if dtype in OPERANDS else 1


def tensor_tiles(columns: int, k: int, dtype: str) -> list[TensorTile]:
    """The tiles there are for a weight of k rows that is packed to so many columns."""
    operand = OPERANDS.get(dtype)
    if operand is None or k < operand.least_k:
        return []
    sizes = _TILES if operand is _TF32 else _HALF_TILES
    return [TensorTile(*each, operand) for each in sizes if columns % each[1] == 0]


def tensor_tile(decisions: Decisions, columns: int, k: int, dtype: str) -> TensorTile | None:
    """The tile for tensor cores that `decisions` name; None where they name another kind."""
    found = tensor_tiles(columns, k, dtype)
    return next((tile for tile in found if tile.name == decisions["tile"]), None)


def pipeline(tile: TensorTile, decisions: Decisions, target: CudaTarget) -> Pipeline:
    """The stages that `decisions` name, or as much of them as shared memory holds.

    Stages go first, down to two, then steps of k. Each slice has a step of its own.
    """
    least = MMA[2] * tile.operand.in_word * tile.slices
    steps = max(int(decisions["k_steps"]), least)
    stages = max(int(decisions["stages"]), _LEAST_STAGES)
    while (made := Pipeline(tile, steps, stages)).shared > target.static_shared:
        stages, steps = (stages - 1, steps) if stages > _LEAST_STAGES else (stages, steps // 2)
        assert steps >= least, f"{tile.name} has no room in shared memory"
    return made
