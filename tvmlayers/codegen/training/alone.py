"""Kernels of the backward pass as functions of their own, for a framework that keeps the tensors.

What they share out among threads are the units of a whole step: the same for any number of threads,
and so are the bits of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.kernel import Functions
from tvmlayers.codegen.cpu.table_gradient import (
    TableUpdate,
    scatter_units,
    sort_units,
    sorted_units,
)
from tvmlayers.codegen.cpu.units import Sizes, Units
from tvmlayers.codegen.modules import Modules
from tvmlayers.codegen.parallel import MOST_TASKS, each_task
from tvmlayers.expr.optimizers import rounded, rule_of
from tvmlayers.layers.names import naming
from tvmlayers.targets import Target
from tvmlayers.training.optimizers import SGD, Optimizer

Function = Callable[..., int]

_GRAIN = 1 << 16  # bytes of rows that are worth a thread's while


def table_function(
    rows: int,
    width: int,
    optimizer: Optimizer,
    dtype: str,
    index_dtype: str,
    skipped: int | None,
    target: Target,
) -> Function:
    """`f(indices, gradient, table, *states, pairs, others, rate, step, threads)`, in place.

    indices: (count * per,), row i of the gradient (count, width) serving `per` of them one after
    another; all within the table (rows, width), but that `skipped` takes no gradient. states: as
    `optimizer` has them. pairs, others: int64 of the length of `indices`, to work in; of length 0
    where `needs_pairs` says so. rate: the learning rate, step: the number of the step from 1 on.
    """
    lanes = target.lanes(dtype)
    rule = rule_of(optimizer, of_table=True)
    spec = TableUpdate(
        rows,
        width,
        rule,
        lanes,
        dtype,
        index_dtype,
        skipped,
        "raise",
        has_row_state=bool(optimizer.row_slots),
        every_row=optimizer.moves_unused and not optimizer.lazy,
    )
    shapes = list(optimizer.state_shapes((rows, width)).values())
    total, count, room = (Var(name, "int64") for name in ("total", "count", "room"))

    def body() -> Expr:
        tensors = [
            _tensor("indices", (total,), index_dtype),
            _tensor("gradient", (count, width), dtype),
            _tensor("table", (rows, width), dtype),
            *(_tensor(f"state{i}", shape, dtype) for i, shape in enumerate(shapes)),
            _tensor("pairs", (room,), "int64"),
            _tensor("others", (room,), "int64"),
        ]
        indices, gradient, table, *states, pairs, others = tensors
        rate = T.arg("rate", Var("rate", "float64"))
        step = T.arg("step", Var("step", "int64"))
        threads = T.arg("threads", Var("threads", "int32"))
        numbers = T.alloc_buffer((rule.count,), dtype)
        for i, each in enumerate(rule.numbers(rate, tirx.Cast("float64", step))):
            T.buffer_store(numbers, rounded(each, dtype), [i])
        per = emit.kept(emit.quotient(total, te.max(count, emit.i64(1))))
        nbytes = total * emit.i64(width * np.dtype(dtype).itemsize)
        share = partial(_share, threads=threads, nbytes=nbytes)
        if not needs_pairs(optimizer):
            sizes = {"count": count, "per": per}
            share(scatter, [indices, gradient, table, numbers.data], sizes)
            return emit.i64(0)
        emit.call(
            sort.entry, indices, pairs, others, emit.kept(count), per, emit.i64(0), emit.i64(1)
        )
        pointers = [pairs, gradient, table, *states, numbers.data]
        share(update, pointers, {"total": total})
        return emit.i64(0)

    with naming:
        if needs_pairs(optimizer):
            sort, update = sort_units("sort", spec), sorted_units("update", spec)
            functions: Functions = {**sort.functions, **update.functions}
        else:
            scatter = scatter_units("scatter", spec)
            functions = dict(scatter.functions)
        return _compiled("follow", body, functions, target)


def needs_pairs(optimizer: Optimizer) -> bool:
    """Whether an update needs the whole gradient of a row at once, so that indices are sorted."""
    return not isinstance(optimizer, SGD) or bool(optimizer.moves_unused or optimizer.clipvalue)


def _compiled(
    symbol: str, body: Callable[[], Expr], functions: Functions, target: Target
) -> Function:
    with Modules(target) as modules:
        library = modules.finish({**functions, **emit.entry_point(symbol, body)})
    made: Function = library[symbol]
    return made


def _tensor(name: str, shape: Sequence[Any], dtype: str) -> Var:
    """The pointer of an argument."""
    axes = [emit.i64(size) if isinstance(size, int) else size for size in shape]
    buffer: Any = T.arg(name, T.buffer(axes, dtype, align=np.dtype(dtype).itemsize))
    pointer: Var = buffer.data
    return pointer


def _share(
    units: Units, pointers: Sequence[Var], sizes: Sizes, *, threads: Expr, nbytes: Expr
) -> None:
    """All units, on as many threads as there may be and as so many bytes are worth."""
    sizes = {name: emit.kept(size) for name, size in sizes.items()}
    count = emit.kept(units.count(sizes))
    useful = te.max(emit.quotient(nbytes, emit.i64(_GRAIN)), emit.i64(1))
    most = te.min(te.min(emit.i64(threads), useful), te.min(count, emit.i64(MOST_TASKS)))
    tasks = emit.kept(te.max(most, emit.i64(1)))
    with each_task(tasks) as i:
        first, last = emit.task_bounds(i, tasks, count)
        with T.serial(first, last) as unit:
            emit.call(units.entry, *pointers, *sizes.values(), unit, count)
