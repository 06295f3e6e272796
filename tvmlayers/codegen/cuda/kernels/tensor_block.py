"""A block of threads that computes a part of a dense layer on tensor cores, as a thread sees it."""

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.expr.math import narrowed, widened
from tvmlayers.spaces.cuda_tensor_gemm import MMA, Operand, Pipeline

DTYPE = "float32"  # of sums
ROWS, COLUMNS, WORDS = MMA


@dataclass(frozen=True)
class TensorDense:
    """One kernel. vector: elements of a row of x that are copied at a time, a divisor of k."""

    k: int
    n: int
    padded: tuple[int, int]
    pipeline: Pipeline
    vector: int
    activation: Callable[[Expr], Expr]
    use_bias: bool

    @property
    def operand(self) -> Operand:
        """What is multiplied."""
        return self.pipeline.tile.operand

    @property
    def word(self) -> str:
        """The dtype of the words of x and w in shared memory."""
        return DTYPE if self.operand.in_word == 1 else "uint32"


@dataclass(frozen=True)
class Block:
    """What a thread works on: its tensors, its part of the result and its memory.

    group, place: of the thread's lane in an instruction's operands, as the PTX ISA numbers them.
    """

    dense: TensorDense
    x: Buffer
    w: Buffer
    b: Buffer | None
    out: Buffer
    m: Expr
    first_row: Expr
    first_column: Expr
    thread: Expr
    slice: Expr
    warp_row: Expr
    warp_column: Expr
    group: Expr
    place: Expr
    xs: Buffer
    ws: Buffer
    sums: Buffer

    @property
    def fragments(self) -> tuple[int, int]:
        """Instructions' results along the rows and along the columns of a warp."""
        tile = self.dense.pipeline.tile
        return tile.warp_rows // ROWS, tile.warp_columns // COLUMNS

    def element(self, i: Expr, j: Expr, half: Expr) -> tuple[Expr, Expr, Expr]:
        """(row, column, place in the sums) of the first of two neighbours that a thread has."""
        row = self.first_row + emit.i64(self.warp_row + i * ROWS + half * 8 + self.group)
        column = self.first_column + self.warp_column + j * COLUMNS + self.place * 2
        return emit.bound(row), emit.bound(column), (i * self.fragments[1] + j) * 4 + half * 2

    def result(self, value: Expr, column: Expr) -> Expr:
        """The layer's output from its sum."""
        if self.b is not None:
            value = emit.bound(value + widened(self.b[column]))
        return self.dense.activation(value)

    def stored(self, value: Expr) -> Expr:
        """`value` in the dtype of the result."""
        return narrowed(value, str(self.out.dtype))


def shared(name: str, words: int, dtype: str = DTYPE) -> Buffer:
    return named(name, T.alloc_buffer((words,), dtype, scope="shared", layout=None))


def local(name: str, words: int, dtype: str = DTYPE) -> Buffer:
    return named(name, T.alloc_buffer((words,), dtype, scope="local", layout=None))


def named(name: str, buffer: Buffer) -> Buffer:
    IRBuilder.name(name, buffer)
    return buffer


def store(buffer: Buffer, at: Expr | int, value: Expr) -> None:
    T.buffer_store(buffer, value, [at])


def load_pair(first: Expr, second: Expr, source: Expr) -> None:
    """Two neighbouring words from `source` on, in one load whatever the address is made of."""
    instruction("load_pair", address(first), address(second), address(source))


def address(element: Expr) -> Expr:
    return tirx.address_of(element)


def barrier() -> None:
    T.evaluate(T.tvm_storage_sync("shared"))


def copy_async(size: int, to: Expr, source: Expr, given: Expr) -> None:
    instruction(f"copy_async_{size}", address(to), address(source), given)


def copy_half(to: Expr, place: Expr, source: Expr, given: Expr) -> None:
    """Copy one half to the first or the second place of a word, now: no other copy is so small."""
    instruction("copy_2", address(to), place, address(source), given)


def instruction(name: str, *arguments: Expr) -> None:
    """One of `codegen.cuda.instructions`."""
    T.evaluate(tirx.call_extern("int32", f"tvmlayers_{name}", *arguments))
