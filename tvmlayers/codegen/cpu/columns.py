"""Words for functions that go over the columns of a row in whole vectors, written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit

MOST_UNROLLED = 8  # vectors of a row in one straight run, whose sums stay in registers


def parameters(**kinds: str) -> list[Any]:
    """Parameters of the function being written, by name: views of what pointers point at, numbers
    as they are. Kinds are those of `emit.argument`."""
    made = [(emit.argument(name, kind), kind) for name, kind in kinds.items()]
    return [emit.view(each) if kind.startswith("*") else each for each, kind in made]


def over_columns(n: int, lanes: int, write: Callable[[Expr, Expr], None]) -> None:
    """`write(column, lane)` for columns 0..n-1, in vectors while they are whole.

    lane: of the vector that a column is in; 0 for those that are left.
    """
    whole = n // lanes
    loop = T.unroll if whole <= MOST_UNROLLED else T.serial
    if whole:
        with loop(emit.i64(0), emit.i64(whole)) as chunk:
            if lanes == 1:
                write(chunk, emit.i64(0))
            else:
                with T.vectorized(emit.i64(0), emit.i64(lanes)) as lane:
                    write(chunk * emit.i64(lanes) + lane, lane)
    if n % lanes:
        with T.serial(emit.i64(0), emit.i64(n % lanes)) as left:
            write(emit.i64(whole * lanes) + left, emit.i64(0))


def each_lane(lanes: int, write: Callable[[Expr], None]) -> None:
    """`write(lane)` for all lanes of one vector."""
    over_columns(lanes, lanes, lambda lane, _: write(lane))


def local(elements: int, dtype: str) -> Buffer:
    """Memory of the function being written."""
    return T.sblock_alloc_buffer((elements,), dtype, scope="local")


def put(buffer: Buffer, index: Expr | int, value: Expr) -> None:
    """Store `value` at an element."""
    T.buffer_store(buffer, value, [index if not isinstance(index, int) else emit.i64(index)])


def lanes_of(buffer: Buffer, lanes: int) -> list[Expr]:
    """The elements of a vector of partial results."""
    return [buffer[emit.i64(lane)] for lane in range(lanes)]


def number(value: float, dtype: str) -> Expr:
    """A constant."""
    return tirx.const(value, dtype)
