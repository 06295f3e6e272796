"""GEMM of bfloat16 on AMX: x is read where it lies, W in pairs of steps (see `artifact.panels`).

Sums are float32. The unit takes subnormal numbers for zeros, and so are products that are.
Where Linux does not let this process use it, the caller computes on the vector units instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.artifact.bf16x3 import LANES, PAIRS, STEP
from tvmlayers.artifact.panels import PanelLayout
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu import amx_tiles as tiles
from tvmlayers.codegen.cpu.amx import GRANTED, TEXT
from tvmlayers.codegen.cpu.amx_split import ROWS, ramp
from tvmlayers.codegen.cpu.amx_tiles import BLOCK
from tvmlayers.codegen.cpu.kernel import Functions, tensor_arguments
from tvmlayers.codegen.cpu.written import Written
from tvmlayers.dtypes import is_half
from tvmlayers.expr.math import bind
from tvmlayers.expr.stored import KernelAs, as_float, as_kept, read_as

HALF = "bfloat16"
_BYTES = 2  # of a number of x
_ROW_BYTES = 64  # of a tile
# The word of the configuration with the rows of all registers, a byte each; which hold x or sums.
_ROWS_WORD, _OF_ROWS = 6, 0x0000010101010101


@dataclass(frozen=True)
class HalfSpec:
    """One dense layer of bfloat16; rows: the most that come at a time; out: dtype of the result."""

    layout: PanelLayout
    rows: int
    activation: Callable[[Expr], Expr]
    use_bias: bool
    out: str

    @property
    def steps(self) -> int:
        """Tiles of k that are whole in x."""
        return self.layout.k // STEP

    @property
    def has_rest(self) -> bool:
        """Whether k ends within a tile: those of x are copied then, as what lies behind a row is
        another one's, or nobody's."""
        return self.layout.k % STEP > 0


def half_rows(name: str, spec: HalfSpec, functions: Functions) -> GlobalVar:
    """`f(x, w, [b], out, m, first, last, status)`: m rows by panels first..last-1, on one thread.

    It and all that it calls are added to `functions`. The status is 0 where all is computed, 1
    where nothing is.
    """
    return _Writer(name, spec, functions).rows()


class _Writer(Written):
    """Writes the functions of one layer, each once."""

    def __init__(self, name: str, spec: HalfSpec, functions: Functions) -> None:
        super().__init__(name, functions)
        self._spec, self._layout = spec, spec.layout

    def rows(self) -> GlobalVar:
        """The function that the others serve."""
        return self._function("rows", self._write_rows, TEXT)

    def _write_rows(self) -> None:
        spec, layout = self._spec, self._layout
        kept = KernelAs(HALF, layout.k, rows_of_pairs=layout.rows)
        x, w, biases, out = tensor_arguments(
            read_as(HALF), spec.use_bias, kept, out=read_as(spec.out)
        )
        m, first, last = (emit.argument(each, "int64") for each in ("m", "first", "last"))
        status = emit.argument("status", "*int32")
        configuration = emit.on_stack(len(tiles.CONFIGURATION), "int64")
        sums = emit.on_stack(BLOCK * ROWS * BLOCK * LANES, "float32")
        rests = emit.on_stack(spec.rows * STEP, "uint16") if spec.has_rest else None

        def compute() -> None:
            emit.store(status, 0)
            height = emit.kept(te.min(m, emit.i64(ROWS)))
            for i, word in enumerate(tiles.CONFIGURATION):
                value: Expr = emit.i64(word)
                if i == _ROWS_WORD:
                    value = emit.i64(word & ~(_OF_ROWS * 0xFF)) + height * emit.i64(_OF_ROWS)
                T.buffer_store(emit.view(configuration), value, [emit.i64(i)])
            tiles.intrinsic("ldtilecfg", tirx.address_of(emit.view(configuration)[emit.i64(0)]))
            if rests is not None:
                emit.call(self._function("rests", self._write_rests), x, rests, m)

            def panel(p: Expr, width: int, valid: int) -> None:
                columns = p * emit.i64(layout.width)
                pointers = [x, *([rests] if rests is not None else [])]
                pointers.append(emit.offset(w, columns * emit.i64(layout.rows)))
                pointers += [emit.offset(each, columns) for each in (*biases, out)]
                made = self._function(f"panel{valid}", partial(self._write_panel, width, valid))
                emit.call(made, *pointers, sums, m, height)

            if layout.full_panels:
                with T.serial(first, te.min(last, emit.i64(layout.full_panels))) as p:
                    panel(p, layout.width, layout.width)
            if layout.tail:
                place = emit.i64(layout.full_panels)
                tail = partial(panel, place, layout.tail_width, layout.tail)
                emit.when(last > place, tail)
            tiles.intrinsic("tilerelease")

        emit.store(status, 1)
        emit.when(tirx.call_extern("int64", GRANTED) != emit.i64(0), compute)

    def _write_rests(self) -> None:
        """`f(x, rests, m)`: what m rows of x have behind their last whole tile, as rows of one."""
        k, steps = self._layout.k, self._spec.steps
        x, rests = emit.argument("x", "*uint16"), emit.argument("rests", "*uint16")
        m = emit.argument("m", "int64")
        with T.serial(emit.i64(0), m) as row:
            zeros = tirx.const(0, f"uint16x{STEP}")
            T.buffer_store(emit.view(rests), zeros, [ramp(row * emit.i64(STEP), STEP)])
            with T.serial(emit.i64(0), emit.i64(k - steps * STEP)) as step:
                value = emit.view(x)[row * emit.i64(k) + emit.i64(steps * STEP) + step]
                T.buffer_store(emit.view(rests), value, [row * emit.i64(STEP) + step])

    def _write_panel(self, width: int, valid: int) -> None:
        """`f(x, [rests], w, [b], out, sums, m, height)`: m rows by one panel.

        height: rows of a tile; the last ones begin at m - height, so that none is partial.
        """
        spec, layout = self._spec, self._layout
        x = emit.argument("x", "*uint16")
        rests = emit.argument("rests", "*uint16") if spec.has_rest else None
        w = emit.argument("w", "*uint32")
        b = emit.argument("b", f"*{read_as(HALF)}") if spec.use_bias else None
        out, sums = emit.argument("out", f"*{read_as(spec.out)}"), emit.argument("sums", "*float32")
        m, height = emit.argument("m", "int64"), emit.argument("height", "int64")

        def write(rows: list[Expr], first: int, strips: int) -> None:
            pointers = [emit.offset(x, row * emit.i64(layout.k)) for row in rows]
            if rests is not None:
                pointers += [emit.offset(rests, row * emit.i64(STEP)) for row in rows]
            make = partial(self._write_multiply, len(rows), strips, width)
            multiply = self._function(f"multiply{len(rows)}x{strips}_{width}", make)
            emit.call(multiply, *pointers, emit.offset(w, first), sums)
            columns = min(valid - first, strips * LANES)
            for i, row in enumerate(rows):
                place = row * emit.i64(layout.n) + emit.i64(first)
                given = [emit.offset(sums, i * ROWS * strips * LANES)]
                given += [emit.offset(b, first)] if b is not None else []
                make = partial(self._write_epilogue, columns, strips * LANES)
                epilogue = self._function(f"epilogue{columns}", make)
                emit.call(epilogue, *given, emit.offset(out, place), height)

        def columns_of(rows: list[Expr]) -> None:
            strips = width // LANES
            for first in range(0, strips, BLOCK):
                write(rows, first * LANES, min(BLOCK, strips - first))

        with T.serial(emit.i64(0), emit.ceil_div(m, BLOCK * ROWS)) as block:
            begin = emit.bound(block * emit.i64(BLOCK * ROWS))
            rows = [
                emit.bound(te.min(begin + emit.i64(i * ROWS), m - height)) for i in range(BLOCK)
            ]
            more = begin + emit.i64(ROWS) < m
            emit.chain([(more, lambda: columns_of(rows)), (None, lambda: columns_of(rows[:1]))])

    def _write_multiply(self, rows: int, strips: int, width: int) -> None:
        """`f(x for each tile of rows, [rests for each], w, sums)`: the sums of rows by strips
        tiles, a tile of rows after the other."""
        spec = self._spec
        of_x = [emit.argument(f"x{i}", "*uint16") for i in range(rows)]
        rests = [emit.argument(f"rest{i}", "*uint16") for i in range(rows if spec.has_rest else 0)]
        w, sums = emit.argument("w", "*uint32"), emit.argument("sums", "*float32")
        # Registers of sums, of x, and of W, whose rows are always all there.
        x_first, w_first = rows * strips, 6
        stride = emit.i64(spec.layout.k * _BYTES)

        def step(at: Expr, given: list[Var], begin: Expr, row_bytes: Expr) -> None:
            for j in range(strips):
                place = at * emit.i64(PAIRS * width) + emit.i64(j * LANES)
                address = tirx.address_of(emit.view(w)[place])
                load = tiles.register(w_first + j), address, emit.i64(width * 4)
                tiles.intrinsic("tileloadd64", *load)
                tiles.gap()
            for i, pointer in enumerate(given):
                address = tirx.address_of(emit.view(pointer)[begin])
                tiles.intrinsic("tileloadd64", tiles.register(x_first + i), address, row_bytes)
                tiles.gap()
                for j in range(strips):
                    registers = i * strips + j, x_first + i, w_first + j
                    tiles.intrinsic("tdpbf16ps", *map(tiles.register, registers))
                    tiles.gap()

        for number in range(rows * strips):
            tiles.intrinsic("tilezero", tiles.register(number))
        if spec.steps:
            with T.serial(emit.i64(0), emit.i64(spec.steps)) as at:
                step(at, of_x, at * emit.i64(STEP), stride)
        if spec.has_rest:
            step(emit.i64(spec.steps), rests, emit.i64(0), emit.i64(_ROW_BYTES))
        for i, j in product(range(rows), range(strips)):
            place = emit.i64((i * ROWS * strips + j) * LANES)
            address = tirx.address_of(emit.view(sums)[place])
            row_bytes = emit.i64(strips * _ROW_BYTES)
            tiles.intrinsic("tilestored64", tiles.register(i * strips + j), address, row_bytes)

    def _write_epilogue(self, columns: int, width: int) -> None:
        """`f(sums, [b], out, rows)`: what becomes of sums, rows of `width`, of which so many
        columns are the result's."""
        spec, n = self._spec, emit.i64(self._layout.n)
        sums = emit.argument("sums", "*float32")
        b = emit.argument("b", f"*{read_as(HALF)}") if spec.use_bias else None
        out = emit.argument("out", f"*{read_as(spec.out)}")
        rows = emit.argument("rows", "int64")

        def element(row: Expr, column: Expr) -> None:
            value = emit.view(sums)[row * emit.i64(width) + column]
            value = value + as_float(emit.view(b)[column], HALF) if b is not None else value
            value = bind(value, spec.activation)
            value = as_kept(value, spec.out) if is_half(spec.out) else value
            T.buffer_store(emit.view(out), value, [row * n + column])

        with T.serial(emit.i64(0), rows) as row:
            for first in range(0, columns, LANES):
                count = min(LANES, columns - first)
                loop = T.vectorized if count == LANES else T.serial
                with loop(emit.i64(0), emit.i64(count)) as lane:
                    element(row, emit.i64(first) + lane)
