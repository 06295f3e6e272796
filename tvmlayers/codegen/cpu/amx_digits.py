"""GEMM of rows in digits (see `digits`) with int8 weights on AMX, for many rows.

A tile register takes 16 rows of 64 steps of a digit, or 64 steps of 16 columns: four steps side by
side for each column, as panels have them. A digit after another is multiplied with a panel; sums
are exact.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.artifact.bf16x3 import LANES
from tvmlayers.artifact.panels import code_offset
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.amx import GRANTED, TEXT, configure
from tvmlayers.codegen.cpu.amx_split import ROWS, ramp
from tvmlayers.codegen.cpu.amx_tiles import BLOCK, intrinsic
from tvmlayers.codegen.cpu.digit_gemm import DigitSpec, Panel, digits_function, write_results
from tvmlayers.codegen.cpu.digits import STEPS, at_row, total
from tvmlayers.codegen.cpu.kernel import Functions
from tvmlayers.codegen.private import with_text

_WORDS = STEPS // 4  # of a tile of W
_WORD_BYTES = 4


def amx_digit_rows(name: str, spec: DigitSpec, functions: Functions) -> GlobalVar:
    """`f(x, w, [scales], [b], out, m, first, last, status)`: as `digit_gemm.digit_gemm_rows`; the
    status is not 0 either where Linux does not let this process use the unit."""
    made = digits_function(
        name,
        spec,
        partial(_panel, name, spec, functions),
        functions,
        is_there=tirx.call_extern("int64", GRANTED) != emit.i64(0),
        begin=configure,
        end=partial(intrinsic, "tilerelease"),
    )
    function = functions[made]
    functions[made] = function.with_body(with_text(function.body, TEXT))
    return made


def _panel(name: str, spec: DigitSpec, functions: Functions, width: int, valid: int) -> Panel:
    rows, layout = spec.digit_rows, spec.layout
    group = BLOCK * LANES
    made: dict[tuple[int, int, int], GlobalVar] = {}

    def block(tiles: int, strips: int, valid: int) -> GlobalVar:
        key = tiles, strips, valid
        if key not in made:
            made[key] = GlobalVar(f"{name}_block{tiles}x{strips}_{width}_{valid}")
            write = partial(_write_block, spec, tiles, strips, width, valid)
            functions[made[key]] = emit.noinline(emit.private(write))
        return made[key]

    def panel(memory: Var, w: Var, by_column: Sequence[Expr], out: Var, m: Expr) -> None:
        scales = emit.bound(emit.offset(memory, rows.scales_start))
        sums = emit.bound(emit.offset(memory, rows.sums_start))
        columns = [emit.bound(each) for each in by_column]
        with T.serial(emit.i64(0), emit.ceil_div(m, BLOCK * ROWS)) as i:
            row = emit.bound(i * emit.i64(BLOCK * ROWS))
            here = emit.bound(te.min(m - row, emit.i64(BLOCK * ROWS)))

            def multiply(first: int, strips: int, valid: int) -> None:
                pointers = [
                    at_row(memory, row, rows.row_bytes),
                    at_row(scales, row, _WORD_BYTES),
                    at_row(sums, row, _WORD_BYTES * rows.digits),
                    emit.offset(w, first),
                    *(emit.offset(each, first) for each in columns),
                    emit.offset(out, row * emit.i64(layout.n) + emit.i64(first)),
                ]
                whole, half = (block(tiles, strips, valid) for tiles in (BLOCK, 1))
                emit.chain(
                    [
                        (here > emit.i64(ROWS), lambda: emit.call(whole, *pointers, here)),
                        (None, lambda: emit.call(half, *pointers, here)),
                    ]
                )

            for first in range(0, valid, group):
                strips = min(BLOCK, (width - first) // LANES)
                multiply(first, strips, min(valid - first, strips * LANES))

    return panel


def _write_block(spec: DigitSpec, tiles: int, strips: int, width: int, valid: int) -> None:
    """`f(digits, row scales, sums, w, [scales], [b], out, m)`: 16 rows a tile by 16 columns a
    strip, of which m rows and `valid` columns are stored."""
    rows, kept = spec.digit_rows, spec.kept
    digits = emit.argument("digits", "*int8")
    row_scales, row_sums = emit.argument("rows", "*float32"), emit.argument("sums", "*int32")
    w = emit.argument("w", f"*{kept.dtype}")
    names = ["scales"] * kept.has_column_scales + ["b"] * spec.use_bias
    by_column = [emit.argument(each, "*float32") for each in names]
    out, m = emit.argument("out", "*float32"), emit.argument("m", "int64")
    columns, height = strips * LANES, tiles * ROWS
    products = emit.on_stack(rows.digits * height * columns, "int32")
    totals = emit.on_stack(height * columns, "float32")
    pairs = list(product(range(tiles), range(strips)))

    def register(number: int) -> Expr:
        return tirx.const(number, "int8")

    for digit in range(rows.digits):
        for number in range(len(pairs)):
            intrinsic("tilezero", register(number))
        with T.serial(emit.i64(0), emit.i64(rows.plane // STEPS)) as step:
            for tile in range(tiles):
                place = step * emit.i64(STEPS) + emit.i64(
                    digit * rows.plane + tile * ROWS * rows.row_bytes
                )
                address = tirx.address_of(emit.view(digits)[place])
                intrinsic("tileloadd64", register(4 + tile), address, emit.i64(rows.row_bytes))
            for strip in range(strips):
                place = step * emit.i64(_WORDS * width) + emit.i64(strip * LANES)
                address = tirx.address_of(emit.view(w)[place])
                stride = emit.i64(width * _WORD_BYTES)
                intrinsic("tileloadd64", register(6 + strip), address, stride)
            for number, (tile, strip) in enumerate(pairs):
                operands = (number, 4 + tile, 6 + strip)
                intrinsic("tdpbsud", *map(register, operands))
        for number, (tile, strip) in enumerate(pairs):
            place = ((digit * tiles + tile) * ROWS * columns) + strip * LANES
            address = tirx.address_of(emit.view(products)[emit.i64(place)])
            stride = emit.i64(columns * _WORD_BYTES)
            intrinsic("tilestored64", register(number), address, stride)
    with T.serial(emit.i64(0), m) as row:
        starts = [
            emit.bound(
                emit.view(row_sums)[row * emit.i64(rows.digits) + emit.i64(digit)]
                * -code_offset(kept.depth)
            )
            for digit in range(rows.digits)
        ]
        for strip in range(strips):
            place = row * emit.i64(columns) + emit.i64(strip * LANES)
            sums = [
                emit.view(products)[ramp(place + emit.i64(digit * height * columns), LANES)]
                + tirx.Broadcast(start, LANES)
                for digit, start in enumerate(starts)
            ]
            T.buffer_store(emit.view(totals), total(sums, LANES), [ramp(place, LANES)])
    write_results(spec, totals, row_scales, by_column, out, m, columns, valid)
