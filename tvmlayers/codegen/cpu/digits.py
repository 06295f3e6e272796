"""Rows of x as whole numbers: digits of eight bits, and one scale a row.

A number of a row is about scale * q, and q = digit[0] + 256 digit[1] + 65536 digit[2], each digit
in -128..127. Products of digits with codes of weights are summed exactly. For three digits the
scale is a power of two, so that q is rounded once, half a unit at most, and most small numbers are
exact; for fewer it is the row's largest magnitude divided by the largest q.
"""

from dataclasses import dataclass

from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.amx_split import ramp

_INFINITY = 0x7F800000  # as bits; from there on numbers are not finite
_MAGNITUDE = 0x7FFFFFFF
_LEAST = (127 - 100) << 23  # 2^-100: below, a quotient by the scale could overflow
_LARGEST = {1: 127, 2: 32_639, 3: 8_355_711}  # q of so many digits
_REACH = 2.0**23 / _LARGEST[3] * (1 + 2.0**-22)
_PAST_A_LINE = 64  # so that rows of a power of two do not share sets of a cache
STEPS = 64  # of k, that a row is padded to


@dataclass(frozen=True)
class DigitRows:
    """How rows of k numbers lie: digit by digit, padded with zeros; `group` steps share a sum.

    Behind the digits of all rows, `rows` at most, come their scales, float32, and the sums of their
    digits, int32: of a row's first digit group by group, then of its second.
    """

    k: int
    digits: int
    group: int
    rows: int
    lanes: int

    @property
    def plane(self) -> int:
        """Bytes of a digit of a row."""
        return -(-self.k // STEPS) * STEPS

    @property
    def row_bytes(self) -> int:
        """From a row to the next."""
        return self.digits * self.plane + _PAST_A_LINE

    @property
    def groups(self) -> int:
        """Sums of a digit of a row."""
        return -(-self.k // self.group)

    @property
    def scales_start(self) -> int:
        """Where the scales begin, in bytes."""
        return self.rows * self.row_bytes

    @property
    def sums_start(self) -> int:
        """Where the sums begin, in bytes."""
        return self.scales_start + 4 * self.rows

    @property
    def floats_start(self) -> int:
        """Where the numbers of one row have room, in bytes, if they make up no whole vectors."""
        return self.sums_start + 4 * self.rows * self.digits * self.groups

    @property
    def nbytes(self) -> int:
        """Of all that."""
        return self.floats_start + (4 * self.plane if self.k % self.lanes else 0)


def write_digits(rows: DigitRows) -> None:
    """`f(x, memory, m, status)`: m rows of x as digits; the status becomes 1 where a row has none,
    as it holds infinities or NaN, or nothing but numbers below 2^-100."""
    x, memory = emit.argument("x", "*float32"), emit.argument("memory", "*int8")
    m, status = emit.argument("m", "int64"), emit.argument("status", "*int32")
    k, lanes = rows.k, rows.lanes
    bits_dtype = f"int32x{lanes}"
    floats = emit.bound(emit.offset(memory, rows.floats_start))
    scales = emit.bound(emit.offset(memory, rows.scales_start))
    sums = emit.bound(emit.offset(memory, rows.sums_start))
    most = emit.on_stack(lanes, "int32")
    here = emit.on_stack(rows.digits * lanes, "int32")
    chunks = -(-k // lanes)

    def vector(value: int | float, dtype: str) -> Expr:
        return tirx.Broadcast(tirx.const(value, dtype), lanes)

    with T.serial(emit.i64(0), m) as row:
        source = emit.bound(emit.offset(x, row * emit.i64(k)))
        if k % lanes:
            with T.serial(emit.i64(0), emit.i64(k)) as step:
                T.buffer_store(emit.view(floats, "float32"), emit.view(source)[step], [step])
            with T.serial(emit.i64(k), emit.i64(chunks * lanes)) as step:
                zero = tirx.const(0.0, "float32")
                T.buffer_store(emit.view(floats, "float32"), zero, [step])
            source = floats

        def numbers(chunk: Expr) -> Expr:
            return emit.view(source, "float32")[ramp(chunk * emit.i64(lanes), lanes)]

        first = ramp(emit.i64(0), lanes)
        T.buffer_store(emit.view(most), vector(0, "int32"), [first])
        with T.serial(emit.i64(0), emit.i64(chunks)) as chunk:
            bits = tirx.reinterpret(bits_dtype, numbers(chunk)) & vector(_MAGNITUDE, "int32")
            T.buffer_store(emit.view(most), te.max(emit.view(most)[first], bits), [first])
        largest = emit.bound(_reduced("smax", emit.view(most)[first]))
        is_small = tirx.all(largest > 0, largest < _LEAST)
        emit.when(tirx.any(largest >= _INFINITY, is_small), lambda: emit.store(status, 1))
        scale, inverse = map(emit.bound, _scale(largest, rows.digits))
        T.buffer_store(emit.view(scales, "float32"), scale, [row])
        base = emit.bound(emit.offset(memory, row * emit.i64(rows.row_bytes)))
        a_group = -(-rows.group // lanes)
        with T.serial(emit.i64(0), emit.i64(rows.groups)) as group:
            for digit in range(rows.digits):
                at = ramp(emit.i64(digit * lanes), lanes)
                T.buffer_store(emit.view(here), vector(0, "int32"), [at])
            begin = group * emit.i64(a_group)
            with T.serial(begin, te.min(begin + emit.i64(a_group), emit.i64(chunks))) as chunk:
                scaled = numbers(chunk) * tirx.Broadcast(inverse, lanes)
                nearest = tirx.call_llvm_pure_intrin(f"float32x{lanes}", "llvm.rint", scaled)
                whole = emit.bound(tirx.Cast(bits_dtype, nearest))
                for digit, value in enumerate(_digits(whole, rows.digits, lanes)):
                    at = ramp(emit.i64(digit * lanes), lanes)
                    T.buffer_store(emit.view(here), emit.view(here)[at] + value, [at])
                    place = emit.i64(digit * rows.plane) + chunk * emit.i64(lanes)
                    narrow = tirx.Cast(f"int8x{lanes}", value)
                    T.buffer_store(emit.view(base, "int8"), narrow, [ramp(place, lanes)])
            for digit in range(rows.digits):
                total = _reduced("add", emit.view(here)[ramp(emit.i64(digit * lanes), lanes)])
                place = (row * emit.i64(rows.digits) + emit.i64(digit)) * emit.i64(rows.groups)
                T.buffer_store(emit.view(sums, "int32"), total, [place + group])
        for digit in range(rows.digits):
            with T.serial(emit.i64(chunks * lanes), emit.i64(rows.plane)) as step:
                place = emit.i64(digit * rows.plane) + step
                T.buffer_store(emit.view(base, "int8"), tirx.const(0, "int8"), [place])


def _reduced(how: str, value: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin("int32", f"llvm.vector.reduce.{how}", value)


def _scale(largest: Expr, digits: int) -> tuple[Expr, Expr]:
    """(scale, factor that brings its numbers to digits) of a row, from the bits of its largest
    magnitude; zeros for a row of zeros."""
    zero, number = tirx.const(0.0, "float32"), tirx.reinterpret("float32", largest)
    if digits < 3:
        most = tirx.const(float(_LARGEST[digits]), "float32")
        scale, inverse = number / most, most / te.max(number, tirx.const(2.0**-100, "float32"))
    else:
        reach = tirx.reinterpret("int32", number * tirx.const(_REACH, "float32"))
        exponent = emit.bound(reach >> 23)  # as it is stored, 127 more
        scale = tirx.reinterpret("float32", (exponent - 22) << 23)
        inverse = tirx.reinterpret("float32", (254 + 22 - exponent) << 23)
    return tirx.Select(largest > 0, scale, zero), tirx.Select(largest > 0, inverse, zero)


def _digits(whole: Expr, count: int, lanes: int) -> list[Expr]:
    """The digits of a vector of whole numbers, the least first."""
    made = []
    half, eight = (tirx.Broadcast(tirx.const(n, "int32"), lanes) for n in (128, 8))
    for _ in range(count - 1):
        rest = emit.bound((whole + half) >> eight)
        made.append(emit.bound(whole - (rest << eight)))
        whole = rest
    return [*made, whole]


def total(sums: list[Expr], lanes: int) -> Expr:
    """The sum of products in floats, of those of each digit as int32 vectors."""
    dtype = f"float32x{lanes}"
    value = tirx.Cast(dtype, sums[-1])
    for each in reversed(sums[:-1]):
        value = value * tirx.const(256.0, dtype) + tirx.Cast(dtype, each)
    return value


def at_row(pointer: Var, row: Expr, size: int) -> Expr:
    """`pointer` moved on by rows of so many elements."""
    return emit.offset(pointer, row * emit.i64(size))
