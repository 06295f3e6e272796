"""Numbers that are kept in fewer bits: widened to float32 as they are read, rounded as they are
stored.

bfloat16 is read and stored as its bits: this TVM compiles no arithmetic of that dtype for CPUs.
"""

from tvm import te, tirx
from tvm.ir import Expr

from tvmlayers.dtypes import is_half
from tvmlayers.expr.math import bind, dtype_of, select

_READ_AS = {"bfloat16": "uint16"}
_BYTE = 8
_INFINITY, _MAGNITUDE, _QUIET = 0x7F800000, 0x7FFFFFFF, 0x40


def read_as(stored: str) -> str:
    """The dtype of the buffer in which a kernel for CPUs has numbers of this dtype."""
    return _READ_AS.get(stored, stored)


def copied_as(dtype: str) -> str:
    """The dtype in which numbers are copied as they are: halves as their bits."""
    return "uint16" if is_half(dtype) else dtype


def table_as(stored: str) -> str:
    """The same of a table, whose rows as "int8" are codes without a sign."""
    return "uint8" if stored == "int8" else read_as(stored)


def as_float(element: Expr, stored: str) -> Expr:
    """An element of such a buffer as float32: the number itself, or its code."""
    if stored == "bfloat16":
        bits = tirx.Cast("uint32", element) << tirx.const(16, "uint32")
        return tirx.reinterpret("float32", bits)
    is_float = dtype_of(element) in ("float32", "float64")
    return element if is_float else tirx.Cast("float32", element)


def half_of(word: Expr, place: Expr | int) -> Expr:
    """The bfloat16 in the low half of a word, or in the high one where place is 1, as float32."""
    one, bits = tirx.const(1, "uint32"), tirx.const(16, "uint32")
    shift = (one - tirx.Cast("uint32", place)) * bits
    high = (word << shift) & tirx.const(0xFFFF0000, "uint32")
    return tirx.reinterpret("float32", high)


def as_kept(value: Expr, kept: str) -> Expr:
    """A float32 as an element of such a buffer: the nearest half, of two as near the even one."""
    return bind(value, _bits_of_bfloat16) if kept == "bfloat16" else tirx.Cast(kept, value)


def _bits_of_bfloat16(value: Expr) -> Expr:
    """By integers: the instructions for it take subnormal numbers for zeros."""

    def const(number: int) -> Expr:
        return tirx.const(number, "uint32")

    def of_bits(bits: Expr) -> Expr:
        high = bits >> const(16)
        is_nan = (bits & const(_MAGNITUDE)) > const(_INFINITY)
        rounded = (bits + (const(0x7FFF) + (high & const(1)))) >> const(16)
        return tirx.Cast("uint16", select(is_nan, high | const(_QUIET), rounded))

    return bind(tirx.reinterpret("uint32", value), of_bits)


def float_in(table: te.Tensor, row: Expr, first: int) -> Expr:
    """The float32 in a row of bytes, the lowest byte first, from byte `first` on."""
    bits: Expr = tirx.const(0, "uint32")
    for place in range(4):
        byte = tirx.Cast("uint32", table[row, first + place])
        bits = bits | (byte << tirx.const(place * _BYTE, "uint32"))
    return tirx.reinterpret("float32", bits)
