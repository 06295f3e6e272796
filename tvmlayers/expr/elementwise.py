"""Element by element: functions of one tensor or several, and copies into a wider row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import te
from tvm.ir import Expr

from tvmlayers.expr import math as m
from tvmlayers.expr.expression import Expression, Place, size


def elementwise(
    activation: Callable[[Expr], Expr], dtype: str, out_dtype: str | None = None
) -> Expression:
    """activation of each of `count` elements: x (count,) -> (count,); of a half in float32.

    out_dtype: of the result, where it is not that of x.
    """
    count = size("count")
    x = te.placeholder((count,), dtype, name="x")

    def value(i: Expr) -> Expr:
        return m.narrowed(m.bind(m.widened(x[i]), activation), out_dtype or dtype)

    out = te.compute((count,), value, name="out")
    return Expression(tensors=(x, out), sizes=(count,))


@dataclass(frozen=True)
class Operand:
    """What an element comes from: its lengths inside of a row, 1 where it is broadcast, whether it
    has rows of its own or all rows share it, and its dtype."""

    lengths: tuple[int, ...]
    has_rows: bool
    dtype: str


def broadcast(
    function: Callable[..., Expr],
    operands: Sequence[Operand],
    lengths: tuple[int, ...],
    dtype: str,
) -> Expression:
    """function(element of each operand) for each of `count` rows: (count, *lengths).

    An operand is (count, *its lengths), or without the count where all rows share it; it has as
    many lengths as the result. Halves are widened first, and the result is rounded to dtype once.
    """
    count = size("count")
    given = [
        te.placeholder(
            (count, *each.lengths) if each.has_rows else each.lengths, each.dtype, f"x{i}"
        )
        for i, each in enumerate(operands)
    ]

    def value(row: Expr, *place: Expr) -> Expr:
        taken = []
        for tensor, each in zip(given, operands, strict=True):
            own = [at if n > 1 else 0 for at, n in zip(place, each.lengths, strict=True)]
            taken.append(m.widened(tensor[(row, *own) if each.has_rows else tuple(own)]))
        return m.narrowed(function(*taken), dtype)

    out = te.compute((count, *lengths), value, name="out")
    return Expression(tensors=(*given, out), sizes=(count,))


def copy_columns(width: int, total: int, offset: int, dtype: str) -> Expression:
    """x (count, width) stored at columns offset.. of the result (count, total)."""
    count = size("count")
    x = te.placeholder((count, width), dtype, name="x")
    out = te.compute((count, width), lambda i, j: x[i, j], name="out")
    return Expression(
        tensors=(x, out),
        sizes=(count,),
        places={"out": Place((count, total), lambda i: [i[0], i[1] + offset])},
    )
