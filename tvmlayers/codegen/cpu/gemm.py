"""The dense layer on one thread: variants of the register tile, for any rows and panels.

One artefact serves every batch size: a few register tiles are compiled, and which one it is to be
comes with the call.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc, Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.amx import AmxSpec, amx_rows, rounded_k_block
from tvmlayers.codegen.cpu.amx_bf16 import HalfSpec, half_rows
from tvmlayers.codegen.cpu.amx_digits import amx_digit_rows
from tvmlayers.codegen.cpu.amx_split import ROWS as AMX_REGISTER_ROWS
from tvmlayers.codegen.cpu.digit_gemm import DigitSpec, digit_gemm_rows, digit_tile
from tvmlayers.codegen.cpu.gemm_tile import (
    GemmSpec,
    Part,
    most_rows,
    parts_of,
    scratch_elements,
    tallest,
    tiled,
)
from tvmlayers.codegen.cpu.kernel import Functions, at_column, core
from tvmlayers.codegen.cpu.sve import SveSpec, sve_rows, sve_tile
from tvmlayers.codegen.cpu.unpacked import unpacked_rows
from tvmlayers.dtypes import wide
from tvmlayers.spaces.choices import Decisions
from tvmlayers.spaces.gemm import AMX, AMX_BF16, AMX_DIGITS, DIGITS, SVE, UNPACKED, Tile


def rows_function(name: str, spec: GemmSpec, functions: Functions) -> GlobalVar:
    """`f(x, w, [b], out, rows, first, last, row_block, height, variant)`: so many rows by panels
    first..last-1, on one thread.

    It goes over about row_block rows at a time, and height at least, which is that of the variant's
    tile: there are no fewer. It and all that it calls are added to `functions`.
    """
    on_vectors = [_on_vectors(spec, decisions) for decisions in spec.variants()]
    parts = parts_of(name, spec, on_vectors, functions)
    on_unit: dict[int, _Unit] = {}
    for place, decisions in enumerate(spec.variants()):
        tile = Tile.of(decisions)
        if tile.unit == AMX:
            made = amx_rows(f"{name}_amx{place}", _amx_spec(spec, decisions), functions)
            on_unit[place] = _Unit(made, leaves_tail=False)
        elif tile.unit in (DIGITS, AMX_DIGITS):
            rows_of = digit_gemm_rows if tile.unit == DIGITS else amx_digit_rows
            made = rows_of(f"{name}_digits{place}", _digit_spec(spec, decisions), functions)
            on_unit[place] = _Unit(made, leaves_tail=False)
        elif tile.unit == AMX_BF16:
            made = half_rows(f"{name}_bf16{place}", _half_spec(spec, decisions), functions)
            on_unit[place] = _Unit(made, leaves_tail=False)
        elif tile.unit == SVE:
            made = sve_rows(f"{name}_sve{place}", _sve_spec(spec, tile), functions)
            on_unit[place] = _Unit(made, leaves_tail=bool(spec.layout.tail))
        elif tile.unit == UNPACKED:
            made = unpacked_rows(f"{name}_unpacked{place}", spec, decisions, functions)
            on_unit[place] = _Unit(made, leaves_tail=False)
    made = GlobalVar(f"{name}_rows")
    functions[made] = emit.noinline(_rows_function(spec, parts, on_unit))
    return made


def _half_spec(spec: GemmSpec, decisions: Decisions) -> HalfSpec:
    """What AMX computes of bfloat16."""
    rows = most_rows(spec, decisions)
    out = spec.out or spec.dtype
    return HalfSpec(spec.layout, rows, spec.activation, spec.use_bias, out)


def _amx_spec(spec: GemmSpec, decisions: Decisions) -> AmxSpec:
    return AmxSpec(
        spec.layout,
        rounded_k_block(spec.layout.k, int(decisions["k_block"])),
        most_rows(spec, decisions),
        spec.activation,
        spec.use_bias,
        spec.kept,
    )


def _digit_spec(spec: GemmSpec, decisions: Decisions) -> DigitSpec:
    return DigitSpec(
        spec.layout,
        spec.kept,
        Tile.of(decisions).rows,
        int(decisions.get("prefetch_steps", 0)),
        most_rows(spec, decisions),
        spec.lanes,
        spec.byte_products,
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
    if tile.unit in (SVE, UNPACKED, DIGITS):
        return {**instead, "tile": Tile(tile.rows, tile.vectors).name}
    height = min(Tile.of(instead).rows, tile.least)  # there may be no more rows
    return {**instead, "tile": Tile(height, Tile.of(instead).vectors).name}


@dataclass(frozen=True)
class _Unit:
    """A function over rows and panels on another unit; leaves_tail: the panel that is not full is
    left to the vectors."""

    function: GlobalVar
    leaves_tail: bool


def tile_core(spec: GemmSpec, decisions: Decisions) -> tuple[GlobalVar, PrimFunc]:
    """The function over one register tile alone: of full panels, or of the tail without them."""
    layout, tile = spec.layout, Tile.of(decisions)
    if tile.unit == SVE:
        return GlobalVar("tile"), sve_tile(_sve_spec(spec, tile))
    if tile.unit == DIGITS:
        of_tail = layout.tail_width, layout.tail
        widths = (layout.width, layout.width) if layout.full_panels else of_tail
        return GlobalVar("tile"), digit_tile(_digit_spec(spec, decisions), *widths)
    if layout.full_panels:
        expression, schedule = tiled(spec, decisions, tile, layout.width, layout.width)
    else:
        tile = tallest(spec.tail_tiles, tile.rows)
        decisions = {**decisions, "k_block": 0}
        expression, schedule = tiled(spec, decisions, tile, layout.tail_width, layout.tail)
    return core("tile", expression, schedule, kept=spec.halves(expression))


def _rows_function(spec: GemmSpec, parts: Sequence[Part], on_unit: Mapping[int, _Unit]) -> PrimFunc:
    layout = spec.layout
    on_vectors = [each for each in spec.variants() if not Tile.of(each).unit]
    scratch_size = scratch_elements(spec, on_vectors)

    def body() -> None:
        every_x, w, by_column, every_out = spec.arguments()
        rows, first, last, row_block, height, variant = (
            emit.argument(name, "int64")
            for name in ("rows", "first", "last", "row_block", "height", "variant")
        )
        scratch = emit.on_stack(scratch_size, wide(spec.dtype)) if scratch_size else None

        def block(x: Var, out: Var, m: Expr) -> None:
            def run(part: Part, place: int) -> Callable[[], None]:
                made = part.cores[place]
                start = te.max(first, emit.i64(part.first)) - emit.i64(part.first)
                count = (
                    te.min(last, emit.i64(part.first + part.panels)) - emit.i64(part.first) - start
                )
                tiles = emit.ceil_div(m, made.rows)
                columns = emit.i64(part.first * layout.width) + start * part.width

                def write() -> None:
                    pointers = [x, emit.offset(w, columns * layout.rows)]
                    pointers += at_column(by_column, columns, spec.kept)
                    if made.scratch:
                        pointers.append(scratch)
                    pointers.append(emit.offset(out, columns))
                    sizes = [m, tiles] if layout.is_vector else [m, tiles, count]
                    emit.call(made.function, *pointers, *sizes)

                def only_if_any() -> None:
                    emit.chain([(count > emit.i64(0), write), (None, lambda: None)])

                return write if len(parts) == 1 else only_if_any

            def write_parts(place: int, those: Sequence[Part] = parts) -> Callable[[], None]:
                def write() -> None:
                    for part in those:
                        run(part, place)()

                return write

            def compute(place: int) -> None:
                if place not in on_unit:
                    write_parts(place)()
                    return
                unit, status = on_unit[place], emit.view(emit.on_stack(1, "int32"))
                pointers = [x, w, *by_column, out]
                emit.call(unit.function, *pointers, m, first, last, tirx.address_of(status[0]))
                done = write_parts(place, parts[-1:]) if unit.leaves_tail else lambda: None
                emit.chain([(status[0] != 0, write_parts(place)), (None, done)])

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
        if Tile.of(decisions).unit in (AMX, AMX_BF16, AMX_DIGITS)
    ]
    if not on_amx:
        return even
    most = te.max(rows - emit.i64(AMX_REGISTER_ROWS), emit.i64(0))
    return emit.either(reduce(tirx.any, on_amx), te.min(count * row_block, most), even)
