"""Numbers that are kept in fewer bits: widened to float32 as they are read, rounded as they are
stored.

bfloat16 is read and stored as its bits: this TVM compiles no arithmetic of that dtype for CPUs.
"""

from dataclasses import dataclass, replace

from tvm import te, tirx
from tvm.ir import Expr

from tvmlayers.artifact.panels import code_offset
from tvmlayers.dtypes import is_half, numpy_dtype
from tvmlayers.expr.math import bind, dtype_of, select
from tvmlayers.quantization.kinds import Kind
from tvmlayers.quantization.rows import CODED

_READ_AS = {"bfloat16": "uint16"}
_BYTE = 8
_INFINITY, _MAGNITUDE, _QUIET = 0x7F800000, 0x7FFFFFFF, 0x40


def read_as(stored: str) -> str:
    """The dtype of the buffer in which a kernel for CPUs has numbers of this dtype."""
    return _READ_AS.get(stored, stored)


@dataclass(frozen=True)
class KernelAs:
    """How functions read the (k, n) kernel of a Dense.

    stored: the name of its kind; depth: steps of k in an element, see `PanelLayout`; is_unpacked:
    it was brought into floats before, but for the scales of whole columns. rows_of_pairs: of a
    panel of a bfloat16 W whose elements are words of two steps of k, the first one the low half; 0
    where an element is one.
    """

    stored: str
    k: int
    depth: int = 1
    is_unpacked: bool = False
    rows_of_pairs: int = 0

    @property
    def dtype(self) -> str:
        """Of the elements."""
        if self.is_unpacked:
            return "float32"
        if self.depth > 1 or self.rows_of_pairs:
            return "uint32"
        kind = Kind.of(self.stored)
        return "int8" if kind.is_codes else _READ_AS.get(kind.base, kind.base)

    @property
    def rows(self) -> int:
        """Elements along k."""
        return self.rows_of_pairs or -(-self.k // self.depth)

    @property
    def groups(self) -> int:
        """The scales of a column that numbers are multiplied with as they are read; 0 for none."""
        groups = Kind.of(self.stored).groups(self.k)
        return groups if groups > 1 and not self.is_unpacked else 0

    @property
    def has_column_scales(self) -> bool:
        """Whether sums of products are multiplied with a scale."""
        kind = Kind.of(self.stored)
        return kind.is_codes and kind.groups(self.k) == 1

    @property
    def has_scales(self) -> bool:
        """Whether functions are given scales."""
        return self.has_column_scales or self.groups > 0

    def unpacked(self) -> "KernelAs":
        """The same once it was brought into floats."""
        return replace(self, depth=1, is_unpacked=True)

    def number(self, w: te.Tensor, scales: te.Tensor | None, *at: Expr) -> Expr:
        """The number at [panel], step, column, but for the scale of a whole column; scales:
        [panels], groups, columns."""
        *panel, step, column = at
        value = self._code(w, panel, step, column)
        if not self.groups:
            return value
        assert scales is not None
        return value * scales[(*panel, step // Kind.of(self.stored).group, column)]

    def _code(self, w: te.Tensor, panel: list[Expr], step: Expr, column: Expr) -> Expr:
        if self.rows_of_pairs:
            pair, place = te.indexdiv(step, 2), te.indexmod(step, 2)
            return half_of(w[(*panel, pair, column)], place)
        if self.depth == 1:
            element = w[(*panel, step, column)]
            return element if self.is_unpacked else as_float(element, Kind.of(self.stored).base)
        offset, place = code_offset(self.depth), step % self.depth
        shift = code_shift_of(place, self.depth)
        word = w[(*panel, step // self.depth, column)] >> tirx.Cast("uint32", shift)
        code = tirx.Cast("int32", word & tirx.const(2 * offset - 1, "uint32"))
        return tirx.Cast("float32", code - offset)


def code_shift_of(place: Expr, depth: int) -> Expr:
    """`panels.code_shift` of an expression."""
    if depth == 4:
        return place * 8
    return (place % 4) * 8 + (place // 4) * 4


def copied_as(dtype: str) -> str:
    """The dtype in which numbers are copied as they are: halves as their bits."""
    return "uint16" if is_half(dtype) else dtype


def table_as(stored: str) -> str:
    """The dtype that a kernel for CPUs reads a table as."""
    return "uint8" if stored in CODED else _READ_AS.get(stored, stored)


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


def float_in(table: te.Tensor, row: Expr, first: int, dtype: str) -> Expr:
    """The float32 or float16 in a row of bytes, the lowest byte first, from byte `first` on, as
    float32."""
    size = numpy_dtype(dtype).itemsize
    whole = f"uint{size * _BYTE}"
    bits: Expr = tirx.const(0, whole)
    for place in range(size):
        byte = tirx.Cast(whole, table[row, first + place])
        bits = bits | (byte << tirx.const(place * _BYTE, whole))
    return tirx.Cast("float32", tirx.reinterpret(dtype, bits))
