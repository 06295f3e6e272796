"""Long sums as sums of partial sums: the error of a running sum grows with its length.

A loop that a schedule marks with SUM_BLOCKS adds up a block of steps at a time, each from zero, and
the blocks' sums on their own; so may blocks of blocks be. A sum of n terms in blocks of b is then
off by at most gamma(b + n / b) instead of gamma(n) times the sum of their magnitudes (N. J. Higham,
Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, section 4.2).

This is done to loops over flat buffers: a tensor expression cannot say that the last block of a
length known only in the call is shorter than the others.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import te, tirx
from tvm.ir import Expr, IRModule, TensorLoad
from tvm.tirx import Buffer, PrimFunc, Stmt
from tvm_ffi import structural_map

from tvmlayers.spaces.choices import SUM_BLOCKS

_MOST_UNROLLED = 32  # vectors of accumulators that are added in one straight run
# More accumulators leave no registers to the sums of blocks. LLVM would spill them to slots that
# are not aligned; what is volatile stays in memory, aligned.
_MOST_IN_REGISTERS = 8
_VOLATILE = "tirx.volatile"
_PRICE_OF_REST = 8  # in steps: its loop is written out a second time


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]  # tvm has no types
def sum_in_blocks(mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
    """`mod` where the loops with SUM_BLOCKS keep partial sums.

    Variables inside of them may be defined twice in it.
    """
    for name, function in list(mod.functions.items()):
        if isinstance(function, PrimFunc):
            mod.update_func(name, function.with_body(_in_blocks(function.body)))
    return mod


def _in_blocks(body: Stmt) -> Stmt:
    kept: list[Stmt] = []

    def split(loop: tirx.For) -> Stmt:
        if SUM_BLOCKS not in loop.annotations:
            return loop
        steps, *sizes = (int(size) for size in loop.annotations[SUM_BLOCKS])
        if steps:
            sizes[0] = _even_block(int(loop.extent), sizes[0] * int(loop.extent) // steps)
        accumulators = _accumulators(loop)
        sums = [
            [each.like(f"_blocks{level}") for each in accumulators] for level in range(len(sizes))
        ]
        kept.extend(each.allocation() for level in sums for each in level)
        return _CutLoop(loop, accumulators, sizes, sums).statement()

    body = structural_map(body, (tirx.For, split))
    return _sequence([*kept, body]) if kept else body


def _even_block(steps: int, usual: int) -> int:
    """About `usual` steps: the last block is as long as the others, or next to nothing is left."""

    def price(size: int) -> float:
        rest = steps % size
        return abs(size - usual) / 8 + (rest + _PRICE_OF_REST if rest else 0)

    near = range(max(2, usual * 2 // 3), max(2, usual * 4 // 3) + 1)
    return min(near, key=price)


def _sequence(statements: Sequence[Stmt]) -> Stmt:
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


@dataclass(frozen=True)
class _Accumulator:
    """A buffer that a loop adds to; lanes: elements that it adds to at a time."""

    buffer: Buffer
    lanes: int

    @property
    def vectors(self) -> int:
        (size,) = self.buffer.shape
        return int(size) // self.lanes

    def like(self, suffix: str) -> "_Accumulator":
        """Another one of its shape."""
        own = self.buffer
        made = tirx.decl_buffer(
            own.shape, own.dtype, name=own.name + suffix, scope=own.scope(), layout=None
        )
        return _Accumulator(made, self.lanes)

    def allocation(self) -> Stmt:
        in_vectors = self.lanes > 1 or tvm_ffi.dtype(str(self.buffer.dtype)).lanes > 1
        is_volatile = in_vectors and self.vectors > _MOST_IN_REGISTERS
        marks = {_VOLATILE: tirx.const(1, "int32")} if is_volatile else {}
        return tirx.AllocBuffer(self.buffer, annotations=marks)

    def clear(self) -> Stmt:
        return self._set(lambda i: tirx.const(0, self._at(i).ty.dtype))

    def add(self, other: "_Accumulator") -> Stmt:
        return self._set(lambda i: self._at(i) + other._at(i))

    def copy(self, other: "_Accumulator") -> Stmt:
        return self._set(other._at)

    def _set(self, value: Callable[[Expr], Expr]) -> Stmt:
        def store(i: Expr) -> Stmt:
            return tirx.BufferStore(self.buffer, value(i), [self._place(i)])

        if self.vectors <= _MOST_UNROLLED:
            return _sequence([store(tirx.const(i, "int32")) for i in range(self.vectors)])
        i = te.var("vector", "int32")
        zero = tirx.const(0, "int32")
        return tirx.For(i, zero, self.vectors, tirx.ForKind.SERIAL, store(i))

    def _at(self, i: Expr) -> Expr:
        return tirx.BufferLoad(self.buffer, [self._place(i)])

    def _place(self, i: Expr) -> Expr:
        return i if self.lanes == 1 else tirx.Ramp(i * self.lanes, 1, self.lanes)


def _accumulators(loop: tirx.For) -> list[_Accumulator]:
    """The buffers that `loop` adds to."""
    found: list[_Accumulator] = []

    def note(store: tirx.BufferStore) -> tirx.BufferStore:
        read: list[Buffer] = []

        def remember(load: TensorLoad) -> TensorLoad:
            read.append(load.source)
            return load

        structural_map(store.value, (TensorLoad, remember))
        is_known = any(each.buffer.same_as(store.buffer) for each in found)
        if not is_known and any(each.same_as(store.buffer) for each in read):
            (index,) = store.indices
            found.append(_Accumulator(store.buffer, int(getattr(index, "lanes", 1))))
        return store

    structural_map(loop.body, (tirx.BufferStore, note))
    return found


@dataclass(frozen=True)
class _CutLoop:
    """A loop over steps, the buffers it adds to, and the blocks it is cut into.

    sizes: steps of a block, then how many blocks make up the next larger one, and so on; sums: by
    size, those of the blocks that came before.
    """

    loop: tirx.For
    accumulators: Sequence[_Accumulator]
    sizes: Sequence[int]
    sums: Sequence[Sequence[_Accumulator]]

    def statement(self) -> Stmt:
        """Leaves the whole sum in the accumulators, which are zero before.

        Whole blocks come first: of a length known to the compiler, they are the faster loops.
        """
        steps, size = self.loop.extent, self._number(self.sizes[0])
        blocks, rest = te.indexdiv(steps, size), te.indexmod(steps, size)
        is_even = isinstance(rest, tirx.IntImm) and int(rest) == 0
        summed = self._sum(len(self.sizes), self._number(0), blocks, ends=is_even)
        if not is_even:
            some = tirx.IfThenElse(blocks > 0, self._total(self.sums[-1]), None)
            summed += [*self._steps(blocks, rest), some]
        return _sequence(summed)

    def _sum(self, level: int, first: Expr, count: Expr, *, ends: bool = True) -> list[Stmt]:
        """Leaves the sum of `count` of the smallest blocks in the accumulators.

        ends: else in the sums of that level, which more is to be added to.
        """
        if level == 0:
            return self._steps(first, self._number(self.sizes[0]))
        size = math.prod(self.sizes[1:level])
        sums = self.sums[level - 1]
        block = te.var("block", self._dtype)
        number = count if size == 1 else te.indexdiv(count + (size - 1), size)
        inner = te.min(count - block * size, self._number(size)) if size > 1 else self._number(1)
        body = self._sum(level - 1, first + block * size, inner)
        is_first = block < 1
        copied, added = (
            _sequence(
                [make(total, part) for total, part in zip(sums, self.accumulators, strict=True)]
            )
            for make in (_Accumulator.copy, _Accumulator.add)
        )
        more: Stmt = tirx.IfThenElse(is_first, copied, added)
        if ends:
            last = tirx.IfThenElse(tirx.Not(is_first), self._total(sums), None)
            more = tirx.IfThenElse(block + 1 < number, more, last)
        return [
            tirx.For(block, self._number(0), number, tirx.ForKind.SERIAL, _sequence([*body, more]))
        ]

    def _steps(self, block: Expr, steps: Expr) -> list[Stmt]:
        """Leaves the sum over so many steps, of one block, in the accumulators."""
        loop = self.loop
        # From zero, so that LLVM sees how many steps a block has and unrolls them.
        step = te.var(loop.loop_var.name, self._dtype)
        place = loop.min + block * self.sizes[0] + step
        places = {loop.loop_var: place}
        body = structural_map(loop.body, (tirx.Var, lambda var: places.get(var, var)))
        cleared = [each.clear() for each in self.accumulators]
        return [*cleared, tirx.For(step, self._number(0), steps, loop.kind, body)]

    def _total(self, sums: Sequence[_Accumulator]) -> Stmt:
        """Adds the sums of the blocks that came before to the last one's."""
        return _sequence([acc.add(part) for acc, part in zip(self.accumulators, sums, strict=True)])

    def _number(self, value: int) -> Expr:
        return tirx.const(value, self._dtype)

    @property
    def _dtype(self) -> str:
        return str(self.loop.loop_var.ty.dtype)
