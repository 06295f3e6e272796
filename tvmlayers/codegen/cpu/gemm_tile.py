"""One dense layer and its register tiles, each for the panels of one width."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import gcd

from tvm import s_tir
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var

from tvmlayers.artifact.panels import PanelLayout
from tvmlayers.codegen.cpu.kernel import Functions, core, in_halves, tensor_arguments
from tvmlayers.dtypes import wide
from tvmlayers.expr.dense import dense, dot_rows
from tvmlayers.expr.expression import Expression
from tvmlayers.expr.stored import KernelAs, read_as
from tvmlayers.schedule import Regime
from tvmlayers.spaces.choices import Decisions
from tvmlayers.spaces.gemm import (
    AMX,
    AMX_BF16,
    AMX_DIGITS,
    DIGITS,
    SVE,
    UNPACKED,
    Tile,
    dot_tiles,
    gemm_blocks,
    gemm_tiles,
    stretch,
)

Activation = Callable[[Expr], Expr]

_MOST_SCRATCH_ROWS = 1024


@dataclass(frozen=True)
class GemmSpec:
    """What is computed for one dense layer, and how its decisions differ by the number of rows.

    dtype: of x, the numbers by column and the result, computed in float32 where it is a half; out:
    of the result, where that is another; kept: how the weight is; lanes: of a vector; in_vectors:
    the tile that takes over from another unit; tail_tiles: the register tiles of the panel that is
    not full; cheap: whether the activation is short enough to be unrolled into the tile;
    byte_products: see `spaces.gemm.byte_products`.
    """

    layout: PanelLayout
    dtype: str
    kept: KernelAs
    lanes: int
    in_vectors: Decisions
    tail_tiles: Sequence[Tile]
    regimes: Sequence[Regime]
    activation: Activation
    cheap: bool
    use_bias: bool
    out: str = ""
    byte_products: str = ""

    def arguments(self) -> tuple[Var, Var, list[Var], Var]:
        """The parameters x, w, [scales], [b] and out of the function being written."""
        out = read_as(self.out or self.dtype)
        return tensor_arguments(read_as(self.dtype), self.use_bias, self.kept, out=out)

    def halves(self, expression: Expression) -> dict[str, str]:
        """Which of the tensors that a tile reads and writes are kept in halves."""
        wider = {"sums", *({"out"} if self.out not in ("", self.dtype) else ())}
        return in_halves(expression, self.dtype, but=wider)

    def variants(self) -> list[Decisions]:
        """The different ways to make the tiles, each compiled once."""
        made: list[Decisions] = []
        for regime in self.regimes:
            if tile_decisions(regime.decisions) not in made:
                made.append(tile_decisions(regime.decisions))
        return made

    def variant_by_rows(self) -> list[tuple[int | None, int]]:
        """[(most rows, place in `variants`), ...]."""
        variants = self.variants()
        return [(r.most, variants.index(tile_decisions(r.decisions))) for r in self.regimes]


_TILE = ("tile", "streams", "k_unroll", "prefetch_steps", "next_lines", "k_block")


def tile_decisions(decisions: Decisions) -> Decisions:
    """Those of the decisions that make other machine code."""
    counts = {
        "": _TILE,
        AMX: ("tile", "k_block"),
        AMX_BF16: ("tile",),
        AMX_DIGITS: ("tile",),
        SVE: ("tile",),
        DIGITS: ("tile", "prefetch_steps"),
        UNPACKED: ("tile", "k_unroll", "prefetch_steps", "k_block"),
    }[Tile.of(decisions).unit]
    return {name: decisions[name] for name in counts}


@dataclass(frozen=True)
class Core:
    """One function over row tiles and panels.

    rows: the height of its tile; scratch: elements that it needs lent for each tile.
    """

    rows: int
    function: GlobalVar
    scratch: int = 0


@dataclass(frozen=True)
class Part:
    """The panels of one width; cores: by variant."""

    first: int
    panels: int
    width: int
    cores: list[Core]


def parts_of(
    name: str, spec: GemmSpec, variants: Sequence[Decisions], functions: Functions
) -> list[Part]:
    """The full panels and the one that is not, each with a function for every variant."""
    layout = spec.layout
    made: dict[tuple[object, ...], Core] = {}

    def make(decisions: Decisions, tile: Tile, width: int, valid: int) -> Core:
        key = (valid, tile, *(decisions[name] for name in _TILE[1:]))
        if key not in made:
            label = "full" if valid == layout.width else "tail"
            expression, schedule = tiled(spec, decisions, tile, width, valid)
            named, function = core(
                f"{name}_{label}{tile.name}_{len(made)}",
                expression,
                schedule,
                kept=spec.halves(expression),
            )
            functions[named] = function
            has_scratch = any(tensor.op.name == "sums" for tensor in expression.tensors)
            elements = tile.rows * tile.vectors * spec.lanes if has_scratch else 0
            made[key] = Core(tile.rows, named, elements)
        return made[key]

    parts = []
    if layout.full_panels:
        full = [
            make(decisions, Tile.of(decisions), layout.width, layout.width)
            for decisions in variants
        ]
        parts.append(Part(0, layout.full_panels, layout.width, full))
    if layout.tail:
        tail = [
            make({**decisions, "k_block": 0}, tile, layout.tail_width, layout.tail)
            for decisions in variants
            for tile in [tallest(spec.tail_tiles, Tile.of(decisions).rows)]
        ]
        parts.append(Part(layout.full_panels, 1, layout.tail_width, tail))
    return parts


def tallest(tiles: Sequence[Tile], most: int) -> Tile:
    """The tallest of the tiles with no more than `most` rows."""
    return max((tile for tile in tiles if tile.rows <= most), key=lambda tile: tile.rows)


def tiled(
    spec: GemmSpec, decisions: Decisions, tile: Tile, width: int, valid: int
) -> tuple[Expression, Callable[[s_tir.Schedule], None]]:
    """What one core computes, and its schedule."""
    layout, lanes = spec.layout, spec.lanes
    columns = tile.vectors * lanes
    streams, k_block = int(decisions["streams"]), int(decisions["k_block"])
    if layout.is_vector:
        expression = dot_rows(
            layout.k,
            lanes=lanes,
            rows=tile.rows,
            activation=spec.activation,
            use_bias=spec.use_bias,
            dtype=wide(spec.dtype),
            kept=spec.kept,
        )
        return expression, partial(dot_tiles, k=layout.k, lanes=lanes, decisions=decisions)
    # Choices are independent: an unrolling that does not divide the steps becomes one that does.
    steps = stretch(k_block or layout.k, streams, layout.depth)
    decisions = {**decisions, "k_unroll": gcd(int(decisions["k_unroll"]), steps)}
    expression = dense(
        layout.k,
        layout.n,
        rows=tile.rows,
        width=width,
        valid=valid,
        strips=width // columns,
        streams=streams,
        k_block=k_block,
        activation=spec.activation,
        use_bias=spec.use_bias,
        dtype=wide(spec.dtype),
        kept=spec.kept,
    )
    if k_block:
        blocks = partial(gemm_blocks, lanes=lanes, k_block=k_block, columns=columns)
        return expression, partial(blocks, decisions=decisions)
    tiles = partial(gemm_tiles, lanes=lanes, k=steps * streams, columns=columns, streams=streams)
    return expression, partial(tiles, cheap_epilogue=spec.cheap, decisions=decisions)


def row_block_of(decisions: Decisions) -> int:
    """Rows that are gone over at a time; few enough for the sums of blocks of k on the stack."""
    rows, tile = int(decisions["row_block"]), Tile.of(decisions)
    kept = decisions["k_block"] or tile.unit
    return min(max(rows, tile.rows), _MOST_SCRATCH_ROWS) if kept else rows


def most_rows(spec: GemmSpec, variant: Decisions) -> int:
    """The most rows that any batch brings to a variant at a time."""
    sizes = [
        max(row_block_of(regime.decisions), 2 * Tile.of(regime.decisions).rows)
        for regime in spec.regimes
        if tile_decisions(regime.decisions) == variant
    ]
    return max(sizes, default=Tile.of(variant).rows)


def scratch_elements(spec: GemmSpec, variants: Sequence[Decisions]) -> int:
    """What the sums of blocks of k take for the most rows that come at a time to the variants."""
    sizes = [0]
    for regime in spec.regimes:
        decisions = regime.decisions
        if decisions["k_block"] and tile_decisions(decisions) in variants:
            tile, rows = Tile.of(decisions), row_block_of(decisions)
            sizes.append((max(rows, 2 * tile.rows) + tile.rows) * tile.vectors * spec.lanes)
    return max(sizes)
