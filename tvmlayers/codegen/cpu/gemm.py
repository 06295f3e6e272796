"""The dense layer on one thread: variants of the register tile, for any rows and panels.

One artefact serves every batch size: a few register tiles are compiled, and which one it is to be
comes with the call.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from math import gcd

from tvm import s_tir, te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc, Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.artifact.panels import PAIR, PanelLayout
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.amx import AmxSpec, amx_rows, rounded_k_block
from tvmlayers.codegen.cpu.amx_bf16 import HalfSpec, half_rows
from tvmlayers.codegen.cpu.amx_split import ROWS as AMX_REGISTER_ROWS
from tvmlayers.codegen.cpu.kernel import Functions, core, in_halves, tensor_arguments
from tvmlayers.codegen.cpu.sve import SveSpec, sve_rows, sve_tile
from tvmlayers.dtypes import wide
from tvmlayers.expr.dense import dense, dot_rows
from tvmlayers.expr.expression import Expression
from tvmlayers.expr.stored import read_as
from tvmlayers.schedule import Regime
from tvmlayers.spaces import gemm as gemm_space
from tvmlayers.spaces.choices import Decisions
from tvmlayers.spaces.gemm import AMX, AMX_BF16, SVE, Tile, dot_tiles, gemm_blocks, gemm_tiles

Activation = Callable[[Expr], Expr]

_MOST_SCRATCH_ROWS = 1024


@dataclass(frozen=True)
class GemmSpec:
    """What is computed for one dense layer, and how its decisions differ by the number of rows.

    dtype: of x, the numbers by column and the result, computed in float32 where it is a half; out:
    of the result, where that is another; stored: how the weight is kept, whose elements are the
    layout's; lanes: of a vector; in_vectors: the tile that takes over from another unit;
    tail_tiles: the register tiles of the panel that is not full; cheap: whether the activation is
    short enough to be unrolled into the tile.
    """

    layout: PanelLayout
    dtype: str
    stored: str
    lanes: int
    in_vectors: Decisions
    tail_tiles: Sequence[Tile]
    regimes: Sequence[Regime]
    activation: Activation
    cheap: bool
    use_bias: bool
    out: str = ""

    @property
    def has_scales(self) -> bool:
        """Whether each column has a scale."""
        return self.stored == "int8"

    @property
    def is_paired(self) -> bool:
        """Whether an element of the weight, as kernels read it, is two steps of k."""
        return self.layout.depth == PAIR

    def arguments(self) -> tuple[Var, Var, list[Var], Var]:
        """The parameters x, w, [scales], [b] and out of the function being written."""
        return tensor_arguments(
            read_as(self.dtype),
            self.use_bias,
            weight="uint32" if self.is_paired else read_as(self.layout.dtype),
            has_scales=self.has_scales,
            out=read_as(self.out or self.dtype),
        )

    def halves(self, expression: Expression) -> dict[str, str]:
        """Which of the tensors that a tile reads and writes are kept in halves."""
        wider = {"sums", *({"out"} if self.out not in ("", self.dtype) else ())}
        return in_halves(expression, self.dtype, but=wider)

    def variants(self) -> list[Decisions]:
        """The different ways to make the tiles, each compiled once."""
        made: list[Decisions] = []
        for regime in self.regimes:
            if _tile(regime.decisions) not in made:
                made.append(_tile(regime.decisions))
        return made

    def variant_by_rows(self) -> list[tuple[int | None, int]]:
        """[(most rows, place in `variants`), ...]."""
        variants = self.variants()
        return [(r.most, variants.index(_tile(r.decisions))) for r in self.regimes]


_TILE = ("tile", "streams", "k_unroll", "prefetch_steps", "next_lines", "k_block")


def _tile(decisions: Decisions) -> Decisions:
    """Those of the decisions that make other machine code."""
    of_unit = {"": _TILE, AMX: ("tile", "k_block"), AMX_BF16: ("tile",), SVE: ("tile",)}
    counts = of_unit[Tile.of(decisions).unit]
    return {name: decisions[name] for name in counts}


def rows_function(name: str, spec: GemmSpec, functions: Functions) -> GlobalVar:
    """`f(x, w, [b], out, rows, first, last, row_block, height, variant)`: so many rows by panels
    first..last-1, on one thread.

    It goes over about row_block rows at a time, and height at least, which is that of the variant's
    tile: there are no fewer. It and all that it calls are added to `functions`.
    """
    parts = _parts(name, spec, functions)
    on_unit: dict[int, _Unit] = {}
    for place, decisions in enumerate(spec.variants()):
        tile = Tile.of(decisions)
        if tile.unit == AMX:
            made = amx_rows(f"{name}_amx{place}", _amx_spec(spec, decisions), functions)
            on_unit[place] = _Unit(made, leaves_tail=False)
        elif tile.unit == AMX_BF16:
            made = half_rows(f"{name}_bf16{place}", _half_spec(spec, decisions), functions)
            on_unit[place] = _Unit(made, leaves_tail=False)
        elif tile.unit == SVE:
            made = sve_rows(f"{name}_sve{place}", _sve_spec(spec, tile), functions)
            on_unit[place] = _Unit(made, leaves_tail=bool(spec.layout.tail))
    made = GlobalVar(f"{name}_rows")
    functions[made] = emit.noinline(_rows_function(spec, parts, on_unit))
    return made


def _most_rows(spec: GemmSpec, decisions: Decisions) -> int:
    """The most rows that any batch brings to AMX at a time."""
    return max(
        max(row_block_of(regime.decisions), 2 * Tile.of(regime.decisions).rows)
        for regime in spec.regimes
        if _tile(regime.decisions) == decisions
    )


def _half_spec(spec: GemmSpec, decisions: Decisions) -> HalfSpec:
    """What AMX computes of bfloat16."""
    rows = _most_rows(spec, decisions)
    out = spec.out or spec.dtype
    return HalfSpec(spec.layout, rows, spec.activation, spec.use_bias, out)


def _amx_spec(spec: GemmSpec, decisions: Decisions) -> AmxSpec:
    """What AMX computes of float32."""
    return AmxSpec(
        spec.layout,
        rounded_k_block(spec.layout.k, int(decisions["k_block"])),
        _most_rows(spec, decisions),
        spec.activation,
        spec.use_bias,
    )


def _sve_spec(spec: GemmSpec, tile: Tile) -> SveSpec:
    return SveSpec(spec.layout, tile, spec.lanes, spec.activation, spec.use_bias)


def _on_vectors(spec: GemmSpec, decisions: Decisions) -> Decisions:
    """`decisions`, or what takes over from those for another unit."""
    tile = Tile.of(decisions)
    if not tile.unit:
        return decisions
    instead = {**decisions, **spec.in_vectors}
    if tile.unit == SVE:
        return {**instead, "tile": Tile(tile.rows, tile.vectors).name}
    height = min(Tile.of(instead).rows, tile.least)  # there may be no more rows
    return {**instead, "tile": Tile(height, Tile.of(instead).vectors).name}


@dataclass(frozen=True)
class _Unit:
    """A function over rows and panels on another unit; leaves_tail: the panel that is not full is
    left to the vectors."""

    function: GlobalVar
    leaves_tail: bool


@dataclass(frozen=True)
class _Core:
    """One function over row tiles and panels.

    rows: the height of its tile; scratch: elements that it needs lent for each tile.
    """

    rows: int
    function: GlobalVar
    scratch: int = 0


@dataclass(frozen=True)
class _Part:
    """The panels of one width; cores: by variant."""

    first: int
    panels: int
    width: int
    cores: list[_Core]


def _parts(name: str, spec: GemmSpec, functions: Functions) -> list[_Part]:
    layout = spec.layout
    made: dict[tuple[object, ...], _Core] = {}

    def make(decisions: Decisions, tile: Tile, width: int, valid: int) -> _Core:
        key = (valid, tile, *(decisions[name] for name in _TILE[1:]))
        if key not in made:
            label = "full" if valid == layout.width else "tail"
            expression, schedule = _tiled(spec, decisions, tile, width, valid)
            named, function = core(
                f"{name}_{label}{tile.name}_{len(made)}",
                expression,
                schedule,
                kept=spec.halves(expression),
            )
            functions[named] = function
            has_scratch = any(tensor.op.name == "sums" for tensor in expression.tensors)
            elements = tile.rows * tile.vectors * spec.lanes if has_scratch else 0
            made[key] = _Core(tile.rows, named, elements)
        return made[key]

    parts = []
    variants = [_on_vectors(spec, decisions) for decisions in spec.variants()]
    if layout.full_panels:
        full = [
            make(decisions, Tile.of(decisions), layout.width, layout.width)
            for decisions in variants
        ]
        parts.append(_Part(0, layout.full_panels, layout.width, full))
    if layout.tail:
        tail = [
            make({**decisions, "k_block": 0}, tile, layout.tail_width, layout.tail)
            for decisions in variants
            for tile in [_tallest(spec.tail_tiles, Tile.of(decisions).rows)]
        ]
        parts.append(_Part(layout.full_panels, 1, layout.tail_width, tail))
    return parts


def tile_core(spec: GemmSpec, decisions: Decisions) -> tuple[GlobalVar, PrimFunc]:
    """The function over one register tile alone: of full panels, or of the tail without them."""
    layout, tile = spec.layout, Tile.of(decisions)
    if tile.unit == SVE:
        return GlobalVar("tile"), sve_tile(_sve_spec(spec, tile))
    if layout.full_panels:
        expression, schedule = _tiled(spec, decisions, tile, layout.width, layout.width)
    else:
        tile = _tallest(spec.tail_tiles, tile.rows)
        decisions = {**decisions, "k_block": 0}
        expression, schedule = _tiled(spec, decisions, tile, layout.tail_width, layout.tail)
    return core("tile", expression, schedule, kept=spec.halves(expression))


def _tallest(tiles: Sequence[Tile], most: int) -> Tile:
    """The tallest of the tiles with no more than `most` rows."""
    return max((tile for tile in tiles if tile.rows <= most), key=lambda tile: tile.rows)


def _tiled(
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
            stored=spec.stored,
        )
        return expression, partial(dot_tiles, k=layout.k, lanes=lanes, decisions=decisions)
    # One choice does not know of the other: what does not divide the steps is unrolled less.
    steps = gemm_space.stretch(k_block or layout.k, streams, layout.depth)
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
        stored=spec.stored,
        rows_of_pairs=layout.rows if spec.is_paired else 0,
    )
    if k_block:
        blocks = partial(gemm_blocks, lanes=lanes, k_block=k_block, columns=columns)
        return expression, partial(blocks, decisions=decisions)
    tiles = partial(gemm_tiles, lanes=lanes, k=steps * streams, columns=columns, streams=streams)
    return expression, partial(tiles, cheap_epilogue=spec.cheap, decisions=decisions)


def _rows_function(
    spec: GemmSpec, parts: Sequence[_Part], on_unit: Mapping[int, _Unit]
) -> PrimFunc:
    layout = spec.layout
    blocks = [(row_block_of(regime.decisions), regime.decisions) for regime in spec.regimes]
    scratch_size = max(
        (max(rows, 2 * tile.rows) + tile.rows) * tile.vectors * spec.lanes
        if decisions["k_block"] and not Tile.of(decisions).unit
        else 0
        for rows, decisions in blocks
        for tile in [Tile.of(decisions)]
    )

    def body() -> None:
        every_x, w, by_column, every_out = spec.arguments()
        rows, first, last, row_block, height, variant = (
            emit.argument(name, "int64")
            for name in ("rows", "first", "last", "row_block", "height", "variant")
        )
        scratch = emit.on_stack(scratch_size, wide(spec.dtype)) if scratch_size else None

        def block(x: Var, out: Var, m: Expr) -> None:
            def run(part: _Part, place: int) -> Callable[[], None]:
                made = part.cores[place]
                start = te.max(first, emit.i64(part.first)) - emit.i64(part.first)
                count = (
                    te.min(last, emit.i64(part.first + part.panels)) - emit.i64(part.first) - start
                )
                tiles = emit.ceil_div(m, made.rows)
                columns = emit.i64(part.first * layout.width) + start * part.width

                def write() -> None:
                    before = emit.i64(part.first * layout.width * layout.rows)
                    pointers = [x, emit.offset(w, before + start * part.width * layout.rows)]
                    pointers += [emit.offset(each, columns) for each in by_column]
                    if made.scratch:
                        pointers.append(scratch)
                    pointers.append(emit.offset(out, columns))
                    sizes = [m, tiles] if layout.is_vector else [m, tiles, count]
                    emit.call(made.function, *pointers, *sizes)

                def only_if_any() -> None:
                    emit.chain([(count > emit.i64(0), write), (None, lambda: None)])

                return write if len(parts) == 1 else only_if_any

            def on_vectors(place: int, those: Sequence[_Part] = parts) -> Callable[[], None]:
                def write() -> None:
                    for part in those:
                        run(part, place)()

                return write

            def compute(place: int) -> None:
                if place not in on_unit:
                    on_vectors(place)()
                    return
                unit, status = on_unit[place], emit.view(emit.on_stack(1, "int32"))
                pointers = [x, w, *by_column, out]
                emit.call(unit.function, *pointers, m, first, last, tirx.address_of(status[0]))
                done = on_vectors(place, parts[-1:]) if unit.leaves_tail else lambda: None
                emit.chain([(status[0] != 0, on_vectors(place)), (None, done)])

            places = range(len(spec.variants()))
            emit.chain(
                [
                    (
                        None if place == places[-1] else variant <= emit.i64(place),
                        partial(compute, place),
                    )
                    for place in places
                ]
            )

        one = emit.i64(1)
        pieces = row_blocks(rows, row_block, height)
        # A block begins where the last one ended, and no division where there is one, as mostly.
        ended = emit.view(emit.on_stack(1, "int64"))
        T.buffer_store(ended, emit.i64(0), [emit.i64(0)])
        with T.serial(emit.i64(0), pieces) as i:
            begin = emit.bound(ended[emit.i64(0)])
            more = rows_of_blocks(spec, i + one, pieces, rows, row_block, variant)
            end = emit.either(i + one < pieces, more, rows)
            T.buffer_store(ended, end, [emit.i64(0)])
            block(
                emit.bound(emit.offset(every_x, begin * emit.i64(layout.k))),
                emit.bound(emit.offset(every_out, begin * emit.i64(layout.n))),
                emit.bound(end - begin),
            )

    return emit.private(body)


def row_blocks(rows: Expr, row_block: Expr, height: Expr) -> Expr:
    """How many blocks so many rows come in: each of the fewest rows of a tile at least."""
    one = emit.i64(1)
    blocks = te.min(emit.quotient(rows + row_block - one, row_block), emit.quotient(rows, height))
    return emit.either(rows > row_block, te.max(blocks, one), one)


def rows_of_blocks(
    spec: GemmSpec, count: Expr, blocks: Expr, rows: Expr, row_block: Expr, variant: Expr
) -> Expr:
    """How many rows the first `count` of so many blocks have, the last of them not among those.

    Blocks are as even as can be; but whole ones for AMX, which computes 32 rows at a
    time or 16: it has 16 at least in the last one.
    """
    even = emit.quotient(count * rows, blocks)
    on_amx = [
        variant == emit.i64(place)
        for place, decisions in enumerate(spec.variants())
        if Tile.of(decisions).unit in (AMX, AMX_BF16)
    ]
    if not on_amx:
        return even
    most = te.max(rows - emit.i64(AMX_REGISTER_ROWS), emit.i64(0))
    return emit.either(reduce(tirx.any, on_amx), te.min(count * row_block, most), even)


def row_block_of(decisions: Decisions) -> int:
    """Rows that are gone over at a time; few enough for the sums of blocks of k on the stack."""
    rows, tile = int(decisions["row_block"]), Tile.of(decisions)
    kept = decisions["k_block"] or tile.unit
    return min(max(rows, tile.rows), _MOST_SCRATCH_ROWS) if kept else rows
