"""The layers at the end of a model that treat the rows of a batch one by one, as one region.

Each thread takes its rows through all of these layers, some at a time: what passes between them
stays in its own cache, where else one thread computes what another reads, and the threads meet once
instead of once a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var
from tvm_ffi import structural_map

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu import Kernel, elements
from tvmlayers.codegen.cpu.kernel import Functions
from tvmlayers.codegen.parallel import MOST_TASKS, each_task
from tvmlayers.codegen.weights import ALIGNMENT
from tvmlayers.codegen.work_stealing import go_over, taken_pieces, with_stealing
from tvmlayers.dtypes import numpy_dtype
from tvmlayers.expr.stored import read_as
from tvmlayers.schedule import CHAIN_GRAIN_KMACS, chain_block
from tvmlayers.targets import Target

_MACS_PER_BYTE = 2  # a thread's worth of multiply-adds to one of bytes moved


@dataclass(frozen=True)
class Call:
    """One kernel of the straight line.

    values: its inputs, weights and result, by whatever names a value to the caller; shapes: theirs;
    flags: pointers that it reports through.
    """

    kernel: Kernel
    values: Sequence[Any]
    shapes: Sequence[Sequence[Expr]]
    dtypes: Sequence[str]
    flags: Sequence[Expr]

    @property
    def result(self) -> Any:
        """The value that it writes."""
        return self.values[-1]


@dataclass(frozen=True)
class Chain:
    """A run of calls over the same rows.

    weights: values that all rows share; inner: values that only the chain needs; rows: how many
    there are; block: how many go through all layers at a time. What would be less than half of one
    goes along with the block before: so few rows would read all weights once more, and where many
    are for AMX, others than those that are near.
    """

    calls: Sequence[Call]
    weights: frozenset[Any]
    inner: frozenset[Any]
    rows: Var
    block: int

    @property
    def least(self) -> int:
        """The fewest rows of a block, where a task has as many."""
        return self.block // 2

    def scratch_bytes(self) -> int:
        """What one thread needs for the inner values."""
        return sum(nbytes for _, nbytes in self._inner_bytes())

    def _inner_bytes(self) -> list[tuple[Any, int]]:
        made = []
        for call in self.calls:
            if call.result in self.inner:
                rows = self.block + self.least - 1
                nbytes = rows * _row_bytes(call.shapes[-1], call.dtypes[-1])
                made.append((call.result, -(-nbytes // ALIGNMENT) * ALIGNMENT))
        return made

    def _row_elements(self) -> dict[Any, Expr]:
        """How many elements a row is, of each value that lies outside; 0 for weights."""
        found: dict[Any, Expr] = {}
        for call in self.calls:
            for value, shape in zip(call.values, call.shapes, strict=True):
                if value not in self.inner:
                    shared = value in self.weights
                    found[value] = emit.i64(0) if shared else elements(shape[1:])
        return found

    def functions(self, name: str) -> tuple[GlobalVar, Functions]:
        """`f(pointers of `outside`, flags, sizes, scratch, threads)` and what it calls."""
        part, task, driver = GlobalVar(f"{name}_rows"), GlobalVar(f"{name}_task"), GlobalVar(name)
        return driver, {
            part: self._part(),
            task: self._task(part),
            driver: self._driver(task),
        }

    def outside(self) -> list[Any]:
        """The values that lie outside the chain's own scratch, in the order of its arguments."""
        return list(self._row_elements())

    def flags(self) -> list[Expr]:
        """Pointers that its kernels report through, in the order of its arguments."""
        return [flag for call in self.calls for flag in call.flags]

    def sizes(self) -> list[Var]:
        """The symbols of its shapes, the rows first."""
        sizes = [size for call in self.calls for shape in call.shapes for size in shape]
        return list(dict.fromkeys([self.rows, *(s for s in sizes if isinstance(s, Var))]))

    def _arguments(self) -> tuple[dict[Any, Var], list[Var], dict[Var, Var], Var]:
        """Parameters of both functions: outside values, flags, sizes, scratch."""
        dtypes = {
            v: d for call in self.calls for v, d in zip(call.values, call.dtypes, strict=True)
        }
        values = {
            value: emit.argument(f"v{i}", f"*{read_as(dtypes[value])}")
            for i, value in enumerate(self.outside())
        }
        flags = [emit.argument(f"flag{i}", "*int32") for i in range(len(self.flags()))]
        sizes = {size: emit.argument(size.name, "int64") for size in self.sizes()}
        return values, flags, sizes, emit.argument("scratch", "*uint8")

    def _driver(self, task: GlobalVar) -> tirx.PrimFunc:
        """Shares the rows out."""

        def body() -> None:
            values, flags, sizes, scratch = self._arguments()
            threads = emit.argument("threads", "int32")
            rows = sizes[self.rows]
            useful = emit.quotient(_in(sizes, self._macs()), emit.i64(1024 * CHAIN_GRAIN_KMACS))
            most = te.min(te.min(emit.i64(threads), useful), te.min(rows, emit.i64(MOST_TASKS)))
            tasks = emit.bound(emit.i32(emit.kept(te.max(most, emit.i64(1)))))
            given = [*values.values(), *flags, *sizes.values(), scratch]
            taken = taken_pieces(tasks)

            def everything() -> None:
                emit.call(task, *given, taken, emit.i32(0), emit.i32(1))

            def shared_out() -> None:
                with each_task(tasks) as i:
                    emit.call(task, *given, taken, i, tasks)

            emit.chain([(tasks <= 1, everything), (None, shared_out)])

        return emit.private(body)

    def _task(self, part: GlobalVar) -> tirx.PrimFunc:
        """Goes over the rows of task i of `tasks` in blocks, then steals blocks of other tasks."""

        def body() -> None:
            values, flags, sizes, scratch = self._arguments()
            taken = emit.argument("taken", "*int64")
            i, tasks = emit.argument("i", "int32"), emit.argument("tasks", "int32")
            rows, *others = sizes.values()
            steps = {value: _in(sizes, size) for value, size in self._row_elements().items()}
            own = emit.offset(scratch, emit.i64(i) * emit.i64(self.scratch_bytes()))

            def share(of: Expr) -> tuple[Expr, Callable[[Expr], None]]:
                begin, end = map(emit.kept, emit.task_bounds(of, tasks, rows))
                one, whole = emit.i64(1), end - begin - emit.i64(self.least - 1)
                blocks = emit.kept(te.max(emit.ceil_div(whole, self.block), one))

                def block(j: Expr) -> None:
                    first = emit.kept(j * emit.i64(self.block))
                    next_one = first + emit.i64(self.block)
                    last = emit.either(j + one < blocks, next_one, end - begin)
                    moved = [
                        pointer
                        if value in self.weights
                        else emit.offset(pointer, (begin + first) * steps[value])
                        for value, pointer in values.items()
                    ]
                    emit.call(part, *moved, *flags, last - first, *others, own, emit.i32(1))

                return blocks, block

            go_over(i, tasks, taken, share)

        return with_stealing(emit.private(body))

    def _part(self) -> tirx.PrimFunc:
        """Takes at most `block` rows through all the calls, on the thread that it runs on."""

        def body() -> None:
            values, flags, sizes, scratch = self._arguments()
            one = emit.argument("one", "int32")
            pointers: dict[Any, Expr] = dict(values)
            used = 0
            for value, nbytes in self._inner_bytes():
                pointers[value] = emit.offset(scratch, used)
                used += nbytes
            left = iter(flags)
            for call in self.calls:
                shapes = [[_in(sizes, size) for size in shape] for shape in call.shapes]
                emit.call(
                    call.kernel.entry,
                    *(pointers[value] for value in call.values),
                    *(next(left) for _ in call.flags),
                    *call.kernel.scalars(shapes),
                    one,
                )

        return emit.private(body)

    def _macs(self) -> Expr:
        """What all rows cost, in multiply-adds."""
        total: Expr = emit.i64(0)
        for call in self.calls:
            described, shape = call.kernel.report, call.shapes[0]
            if "flops_per_item" not in described:
                if call.kernel.moved is not None:
                    moved = call.kernel.moved(call.shapes)
                    total = total + moved * emit.i64(_MACS_PER_BYTE)
                continue
            items = elements(shape if described["batch"] == "indices" else shape[:-1])
            each = described["flops_per_item"] // 2 + described["bytes_per_item"] * _MACS_PER_BYTE
            total = total + items * emit.i64(each)
        return total


def find_chain(
    calls: Sequence[Call], weights: frozenset[Any], results: Sequence[Any], target: Target
) -> Chain | None:
    """The chain at the end of a straight line, where there is one that is worth it.

    results: the values that the caller gets; all others are written once and read by calls alone.
    """
    rows = calls[-1].shapes[-1][0] if calls and calls[-1].shapes[-1] else None
    if not isinstance(rows, Var):
        return None
    chained: list[Call] = []
    for call in reversed(calls):
        if not _is_by_rows(call, weights, rows):
            break
        chained.insert(0, call)
    inner = frozenset(call.result for call in chained) - frozenset(results)
    weight_bytes = sum(int(call.kernel.report.get("weight_bytes", 0)) for call in chained)
    inner_bytes = sum(
        _row_bytes(call.shapes[-1], call.dtypes[-1]) for call in chained if call.result in inner
    )
    has_bags = any(call.kernel.report.get("kind") == "bag" for call in chained)
    block = chain_block(weight_bytes, inner_bytes, target, has_bags=has_bags)
    if not inner or block is None:
        return None
    return Chain(chained, weights, inner, rows, block)


def _row_bytes(shape: Sequence[Expr], dtype: str) -> int:
    """Bytes of one row of a value whose other axes are numbers."""
    size = numpy_dtype(dtype).itemsize
    for axis in shape[1:]:
        size *= int(axis)
    return size


def _is_by_rows(call: Call, weights: frozenset[Any], rows: Var) -> bool:
    """Whether a row of the result, of fixed size, depends on the same row of the inputs alone.

    So it is of every layer whose tensors all have the batch as their first axis.
    """
    of_batch = [
        shape for value, shape in zip(call.values, call.shapes, strict=True) if value not in weights
    ]
    return all(
        len(shape) > 0 and isinstance(shape[0], Var) and shape[0].same_as(rows)
        for shape in of_batch
    ) and all(isinstance(size, tirx.IntImm) for size in of_batch[-1][1:])


def _in(sizes: dict[Var, Var], value: Expr) -> Expr:
    """`value` with each symbol of the shapes replaced by its parameter."""
    return structural_map(value, (Var, lambda var: sizes.get(var, var)))
