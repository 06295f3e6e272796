"""GEMM of rows in digits (see `digits`) with weights as codes: exact sums, scaled at the end.

An instruction multiplies four bytes without a sign, codes of a weight and their offset, with four
bytes with a sign, a digit of x, and adds the products to an int32. Sums begin at what the offsets
bring too much. They do not saturate, and wrap only beyond MOST_DIGIT_STEPS. Where the instruction
takes bytes with a sign alone, codes of eight bits lose their offset before, and those of four have
no sign bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc, Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.artifact.panels import PanelLayout, code_offset
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.amx_split import ramp
from tvmlayers.codegen.cpu.digits import DigitRows, at_row, total, write_digits
from tvmlayers.codegen.cpu.kernel import Functions, at_column, tensor_arguments
from tvmlayers.codegen.cpu.memory import with_memory
from tvmlayers.codegen.private import prefetch_line
from tvmlayers.expr.math import bind
from tvmlayers.expr.stored import KernelAs
from tvmlayers.quantization.kinds import Kind
from tvmlayers.spaces.gemm import CACHE_LINE, SDOT, USDOT, VPDPBUSD

# Steps that ARM's instructions take from a lane of a vector: loading each by itself into all lanes
# takes the units that multiply.
_LANES_OF_ARM = 4
_WORDS_OF_LINE = CACHE_LINE // 4
_NIBBLES, _SIGN_BITS = 0x0F0F0F0F, 0x80808080


@dataclass(frozen=True)
class DigitSpec:
    """One dense layer on codes. height: rows of x in a register tile; ahead: steps of k that its
    panel is asked for before its use; rows: the most that come at a time; products: what
    `spaces.gemm.byte_products` says."""

    layout: PanelLayout
    kept: KernelAs
    height: int
    ahead: int
    rows: int
    lanes: int
    products: str
    activation: Callable[[Expr], Expr]
    use_bias: bool

    @property
    def kind(self) -> Kind:
        """How the weight is kept."""
        return Kind.of(self.kept.stored)

    @property
    def digit_rows(self) -> DigitRows:
        """How x lies."""
        group = self.kind.group if self.kept.groups else self.layout.k
        return DigitRows(self.layout.k, self.kind.digits, group, self.rows, self.lanes)

    @property
    def offset(self) -> int:
        """How much larger a code is where it is multiplied."""
        return code_offset(self.kept.depth) if not self.loses_offset else 0

    @property
    def loses_offset(self) -> bool:
        """Whether codes are brought into bytes with a sign."""
        return self.products == SDOT and self.kept.depth == 4

    def arguments(self) -> tuple[Var, Var, list[Var], Var]:
        """The parameters x, w, [scales], [b] and out of the function being written."""
        return tensor_arguments("float32", self.use_bias, self.kept)


Panel = Callable[..., None]
"""`panel(memory, w, by_column, out, m)`: all rows by one panel."""


def digit_gemm_rows(name: str, spec: DigitSpec, functions: Functions) -> GlobalVar:
    """`f(x, w, [scales], [b], out, m, first, last, status)`: m rows by panels first..last-1, on one
    thread.

    It and all that it calls are added to `functions`. The status is 0 where all is computed.
    """
    return digits_function(name, spec, partial(_tiles, name, spec, functions), functions)


def digits_function(
    name: str,
    spec: DigitSpec,
    panel_of: Callable[[int, int], Panel],
    functions: Functions,
    *,
    is_there: Expr | None = None,
    begin: Callable[[], None] = lambda: None,
    end: Callable[[], None] = lambda: None,
) -> GlobalVar:
    """The function that brings x into digits, and calls what `panel_of(width, valid)` gives for
    each panel.

    is_there: whether the unit can be had; begin, end: before all panels, and behind them.
    """
    layout, rows = spec.layout, spec.digit_rows
    write, made = GlobalVar(f"{name}_digits"), GlobalVar(name)
    functions[write] = emit.noinline(emit.private(lambda: write_digits(rows)))
    full = panel_of(layout.width, layout.width) if layout.full_panels else None
    tail = panel_of(layout.tail_width, layout.tail) if layout.tail else None

    def body() -> None:
        x, w, by_column, out = spec.arguments()
        m, first, last = (emit.argument(name, "int64") for name in ("m", "first", "last"))
        status = emit.argument("status", "*int32")

        def run(panel: Panel, place: Expr, memory: Var) -> None:
            columns = emit.bound(place * emit.i64(layout.width))
            weight = emit.bound(emit.offset(w, columns * emit.i64(layout.rows)))
            given = at_column(by_column, columns, spec.kept)
            panel(memory, weight, given, emit.bound(emit.offset(out, columns)), m)

        def use(memory: Var) -> None:
            emit.store(status, 0)
            emit.call(write, x, memory, m, status)

            def multiply() -> None:
                begin()
                if full is not None:
                    with T.serial(first, te.min(last, emit.i64(layout.full_panels))) as panel:
                        run(full, panel, memory)
                if tail is not None:
                    place = emit.i64(layout.full_panels)
                    emit.when(last > place, lambda: run(tail, place, memory))
                end()

            emit.when(emit.view(status)[emit.i64(0)] == 0, multiply)

        emit.store(status, 1)
        if is_there is None:
            with_memory(rows.nbytes, use)
        else:
            emit.when(is_there, lambda: with_memory(rows.nbytes, use))

    functions[made] = emit.noinline(emit.private(body))
    return made


def _tiles(name: str, spec: DigitSpec, functions: Functions, width: int, valid: int) -> Panel:
    tile = GlobalVar(f"{name}_tile{valid}")
    functions[tile] = digit_tile(spec, width, valid)
    rows, layout = spec.digit_rows, spec.layout

    def panel(memory: Var, w: Var, by_column: Sequence[Expr], out: Var, m: Expr) -> None:
        scales = emit.bound(emit.offset(memory, rows.scales_start))
        sums = emit.bound(emit.offset(memory, rows.sums_start))
        with T.serial(emit.i64(0), emit.ceil_div(m, spec.height)) as i:
            row = emit.bound(te.min(i * emit.i64(spec.height), m - emit.i64(spec.height)))
            emit.call(
                tile,
                at_row(memory, row, rows.row_bytes),
                at_row(scales, row, 4),
                at_row(sums, row, 4 * rows.digits * rows.groups),
                w,
                *by_column,
                at_row(out, row, layout.n),
            )

    return panel


def digit_tile(spec: DigitSpec, width: int, valid: int) -> PrimFunc:
    """The register tile of panels of `width` columns, of which so many are there."""
    return emit.noinline(emit.private(lambda: _Tile(spec, width, valid).write()))


class _Tile:
    """Writes `f(digits, row scales, sums, w, [scales], [b], out)`: a register tile by one panel."""

    def __init__(self, spec: DigitSpec, width: int, valid: int) -> None:
        self._spec, self._width, self._valid = spec, width, valid
        self._rows = spec.digit_rows
        self._vectors = range(width // spec.lanes)
        self._turns = list(product(range(spec.height), range(self._rows.digits)))

    def write(self) -> None:
        spec, lanes = self._spec, self._spec.lanes
        self._digits = emit.argument("digits", "*int32")
        row_scales, self._sums = emit.argument("rows", "*float32"), emit.argument("sums", "*int32")
        self._w = emit.argument("w", f"*{spec.kept.dtype}")
        names = ["scales"] * spec.kept.has_scales + ["b"] * spec.use_bias
        by_column = [emit.argument(each, "*float32") for each in names]
        out = emit.argument("out", "*float32")
        self._acc = emit.on_stack(len(self._turns) * self._width, "int32")
        totals = emit.on_stack(spec.height * self._width, "float32")
        grouped = spec.kept.groups > 0
        if not grouped:
            self._sum(emit.i64(0), emit.i64(0), emit.i64(spec.layout.rows))
            for row, vector in product(range(spec.height), self._vectors):
                self._store(totals, row, vector, self._total(row, vector))
        else:
            scales, by_column = by_column[0], by_column[1:]
            words = spec.kind.group // spec.kept.depth
            for row, vector in product(range(spec.height), self._vectors):
                self._store(totals, row, vector, tirx.const(0.0, f"float32x{lanes}"))
            with T.serial(emit.i64(0), emit.i64(self._rows.groups)) as group:
                begin = group * emit.i64(words)
                self._sum(group, begin, te.min(begin + emit.i64(words), emit.i64(spec.layout.rows)))
                for row, vector in product(range(spec.height), self._vectors):
                    at = ramp(group * emit.i64(self._width) + emit.i64(vector * lanes), lanes)
                    more = self._total(row, vector) * emit.view(scales)[at]
                    before = emit.view(totals)[self._place(row, vector)]
                    self._store(totals, row, vector, before + more)
        write_results(
            spec,
            totals,
            row_scales,
            by_column,
            out,
            emit.i64(spec.height),
            self._width,
            self._valid,
        )

    def _place(self, row: int, vector: int) -> Expr:
        return ramp(emit.i64(row * self._width + vector * self._spec.lanes), self._spec.lanes)

    def _store(self, totals: Var, row: int, vector: int, value: Expr) -> None:
        T.buffer_store(emit.view(totals), value, [self._place(row, vector)])

    def _total(self, row: int, vector: int) -> Expr:
        places = (row * self._rows.digits + digit for digit in range(self._rows.digits))
        sums = [emit.view(self._acc)[self._place(place, vector)] for place in places]
        return total(sums, self._spec.lanes)

    def _sum(self, group: Expr, begin: Expr, end: Expr) -> None:
        """The sums of products over the words of one group."""
        lanes, depth, rows = self._spec.lanes, self._spec.kept.depth, self._rows
        for row, digit in self._turns:
            place = row * rows.digits + digit
            at = emit.i64(place * rows.groups) + group
            start = emit.bound(emit.view(self._sums)[at] * -self._spec.offset)
            for vector in self._vectors:
                value = tirx.Broadcast(start, lanes)
                T.buffer_store(emit.view(self._acc), value, [self._place(place, vector)])
        if self._spec.products != VPDPBUSD:
            words = _LANES_OF_ARM * 4 // depth
            pieces = emit.quotient(end - begin, emit.i64(words))
            with T.serial(emit.i64(0), pieces) as piece:
                self._words(emit.bound(begin + piece * emit.i64(words)), words)
            begin = begin + pieces * emit.i64(words)
        with T.serial(begin, end) as word:
            self._word(word)

    def _words(self, first: Expr, count: int) -> None:
        """Adds the products of some words of each column, whose digits fill a vector."""
        vectors = {turn: self._digit_vector(first, *turn) for turn in self._turns}
        for place in range(count):
            word = first + emit.i64(place)
            self._ask_ahead(word)
            for vector in self._vectors:
                for quad, codes in enumerate(self._codes(word, vector)):
                    lane = place * self._spec.kept.depth // 4 + quad
                    for row, digit in self._turns:
                        one = tirx.Shuffle([vectors[row, digit]], [lane])
                        x = tirx.Broadcast(one, self._spec.lanes)
                        self._add(row, digit, vector, codes, x)

    def _word(self, word: Expr) -> None:
        """Adds the products of one word of each column."""
        self._ask_ahead(word)
        weights = [self._codes(word, vector) for vector in self._vectors]
        for quad, (row, digit) in product(range(self._spec.kept.depth // 4), self._turns):
            x = emit.bound(self._digit(word, quad, row, digit))
            for vector in self._vectors:
                self._add(row, digit, vector, weights[vector][quad], x)

    def _ask_ahead(self, word: Expr) -> None:
        """Asks for the lines of the panel that come with a later word."""
        ahead, lanes = self._spec.ahead // self._spec.kept.depth, self._spec.lanes
        firsts = [v * lanes for v in self._vectors if v * lanes % _WORDS_OF_LINE == 0]
        for column in firsts if ahead else ():
            at = (word + emit.i64(ahead)) * emit.i64(self._width) + emit.i64(column)
            T.evaluate(prefetch_line(emit.view(self._w)[at]))

    def _add(self, row: int, digit: int, vector: int, codes: Expr, digits: Expr) -> None:
        place = self._place(row * self._rows.digits + digit, vector)
        value = self._dot(emit.view(self._acc)[place], codes, digits)
        T.buffer_store(emit.view(self._acc), value, [place])

    def _digit_start(self, word: Expr, row: int, digit: int) -> Expr:
        """Where the digits that belong to a word begin, in words of them."""
        bytes_before = row * self._rows.row_bytes + digit * self._rows.plane
        return emit.i64(bytes_before // 4) + word * emit.i64(self._spec.kept.depth // 4)

    def _digit(self, word: Expr, quad: int, row: int, digit: int) -> Expr:
        """Four steps of a digit, in each lane."""
        at = self._digit_start(word, row, digit) + emit.i64(quad)
        return tirx.Broadcast(emit.view(self._digits)[at], self._spec.lanes)

    def _digit_vector(self, word: Expr, row: int, digit: int) -> Expr:
        """Four steps in the first lane, the next four in the second, and so on."""
        return emit.bound(emit.view(self._digits)[ramp(self._digit_start(word, row, digit), 4)])

    def _dot(self, before: Expr, codes: Expr, digits: Expr) -> Expr:
        lanes, products = self._spec.lanes, self._spec.products
        name, of_codes = {
            VPDPBUSD: (f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", "uint8"),
            USDOT: ("llvm.aarch64.neon.usdot.v4i32.v16i8", "uint8"),
            SDOT: ("llvm.aarch64.neon.sdot.v4i32.v16i8", "int8"),
        }[products]
        return tirx.call_llvm_pure_intrin(
            f"int32x{lanes}",
            name,
            before,
            tirx.reinterpret(f"{of_codes}x{4 * lanes}", codes),
            tirx.reinterpret(f"int8x{4 * lanes}", digits),
        )

    def _codes(self, word: Expr, vector: int) -> list[Expr]:
        """Four codes a lane each."""
        lanes = self._spec.lanes
        at = ramp(word * emit.i64(self._width) + emit.i64(vector * lanes), lanes)
        words = emit.bound(emit.view(self._w)[at])
        if self._spec.loses_offset:
            return [emit.bound(words ^ tirx.const(_SIGN_BITS, f"uint32x{lanes}"))]
        if self._spec.kept.depth == 4:
            return [words]
        mask, four = (tirx.const(n, f"uint32x{lanes}") for n in (_NIBBLES, 4))
        return [emit.bound(words & mask), emit.bound((words >> four) & mask)]


def write_results(
    spec: DigitSpec,
    totals: Var,
    row_scales: Var,
    by_column: Sequence[Var],
    out: Var,
    rows: Expr,
    width: int,
    valid: int,
) -> None:
    """Scales totals of some rows, `width` columns each, and stores results of `valid` columns.

    by_column: [the scales of whole columns], [b].
    """
    has_scales, lanes = spec.kept.has_column_scales, spec.lanes

    def element(row: Expr, scale: Expr, column: Expr) -> None:
        value = emit.view(totals)[row * emit.i64(width) + column] * scale
        for each in by_column[:has_scales]:
            value = value * emit.view(each)[column]
        for bias in by_column[has_scales:]:
            value = value + emit.view(bias)[column]
        value = bind(value, spec.activation)
        T.buffer_store(emit.view(out), value, [row * emit.i64(spec.layout.n) + column])

    with T.serial(emit.i64(0), rows) as row:
        scale = emit.bound(emit.view(row_scales)[row])
        for first in range(0, width, lanes):
            count = min(lanes, valid - first)
            loop = T.vectorized if count == lanes else T.serial
            with loop(emit.i64(0), emit.i64(count)) as lane:
                element(row, scale, emit.i64(first) + lane)
