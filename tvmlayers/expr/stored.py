"""Weights that are kept in fewer bits, widened to float32 as they are read.

bfloat16 is read as its bits: this TVM compiles no arithmetic of that dtype for CPUs.
"""

from tvm import te, tirx
from tvm.ir import Expr

from tvmlayers.expr.math import dtype_of

_READ_AS = {"bfloat16": "uint16"}
_BYTE = 8


def read_as(stored: str) -> str:
    """The dtype of the buffer that a kernel for CPUs reads numbers of a kernel from."""
    return _READ_AS.get(stored, stored)


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


def float_in(table: te.Tensor, row: Expr, first: int) -> Expr:
    """The float32 in a row of bytes, the lowest byte first, from byte `first` on."""
    bits: Expr = tirx.const(0, "uint32")
    for place in range(4):
        byte = tirx.Cast("uint32", table[row, first + place])
        bits = bits | (byte << tirx.const(place * _BYTE, "uint32"))
    return tirx.reinterpret("float32", bits)
