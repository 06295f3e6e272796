"""Float32 GEMM on tensor cores: blocks of warps, and stages of shared memory copied ahead.

Each float32 operand is the sum of two tf32 numbers, and three of their four products are summed:
`build.cuda.kernels.tensor_gemm` has the numerics.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvmlayers.spaces.choices import Decisions
from tvmlayers.targets import CudaTarget
from tvmlayers.targets.cuda import WARP

TENSOR = "tf32"  # the kind of tile that takes tensor cores
STAGES = (1, 2, 3, 4)  # tensor cores take two at least, the other kernels one
_LEAST_STAGES = 2
# Rows, columns and steps of k of one instruction, m16n8k8.
MMA = (16, 8, 8)
# A product of split numbers may be off by 8 units of rounding, and a float32 sum of n products by n
# of them: from here on there is room.
LEAST_K = 16
# Words between rows of x and of w in shared memory beyond their own: the lanes of a warp, which
# read pairs of eight rows of x and words of eight rows of w at once, then find them in other banks.
X_PADDING = {8: 0, 16: 8, 32: 8}
W_PADDING = 4
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


@dataclass(frozen=True)
class TensorTile:
    """Rows and columns of a block of warps, and of one warp; slices: warps that share k out."""

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    slices: int

    @property
    def name(self) -> str:
        """As a decision says it, such as "tf32:128x64:32x32" or "tf32:32x32:32x32/4"."""
        of_warp = f"{self.warp_rows}x{self.warp_columns}"
        shared_out = f"/{self.slices}" if self.slices > 1 else ""
        return f"{TENSOR}:{self.rows}x{self.columns}:{of_warp}{shared_out}"

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
    def x_stride(self) -> int:
        """Words from row to row of x in a stage."""
        return self.k_steps + X_PADDING[self.k_steps]

    @property
    def w_stride(self) -> int:
        """Words from row to row of w in a stage."""
        return self.tile.columns + W_PADDING

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block, with what slices of k are summed in."""
        stage = self.tile.rows * self.x_stride + self.k_steps * self.w_stride
        handed_over = (self.tile.slices - 1) * self.tile.rows * self.tile.columns
        return 4 * (self.stages * stage + handed_over)


def tensor_tiles(columns: int, k: int, dtype: str) -> list[TensorTile]:
    """The tiles there are for a weight of k rows that is packed to so many columns."""
    if dtype != "float32" or k < LEAST_K:
        return []
    return [TensorTile(*sizes) for sizes in _TILES if columns % sizes[1] == 0]


def tensor_tile(decisions: Decisions, columns: int, k: int, dtype: str) -> TensorTile | None:
    """The tile for tensor cores that `decisions` name; None where they name another kind."""
    found = tensor_tiles(columns, k, dtype)
    return next((tile for tile in found if tile.name == decisions["tile"]), None)


def pipeline(tile: TensorTile, decisions: Decisions, target: CudaTarget) -> Pipeline:
    """The stages that `decisions` name, or as much of them as shared memory holds.

    Stages go first, down to two, then steps of k. Each slice has a step of its own.
    """
    least = MMA[2] * tile.slices
    steps = max(int(decisions["k_steps"]), least)
    stages = max(int(decisions["stages"]), _LEAST_STAGES)
    while (made := Pipeline(tile, steps, stages)).shared > target.static_shared:
        stages, steps = (stages - 1, steps) if stages > _LEAST_STAGES else (stages, steps // 2)
        assert steps >= least, f"{tile.name} has no room in shared memory"
    return made
