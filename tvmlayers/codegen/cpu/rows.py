"""Kernels that go over independent rows: one driver that shares the rows out among threads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import te
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc, Var

from tvmlayers import schedule
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.kernel import Functions, Kernel, Shapes, Use
from tvmlayers.codegen.parallel import each_task
from tvmlayers.codegen.streaming import LARGEST_STORE, starts_at_multiple, stream_from
from tvmlayers.dtypes import is_half
from tvmlayers.targets import Target

Scalars = dict[str, Var]
# For kernels that are never tuned.
UNTUNED_GRAIN: emit.Bounds = [(None, schedule.GRAIN_KIB)]


@dataclass(frozen=True)
class Pointer:
    """A pointer argument: its dtype, and how many elements one row moves it on (0: shared)."""

    name: str
    dtype: str
    step: Callable[[Scalars], Expr | int]


def fixed(elements: int) -> Callable[[Scalars], int]:
    """A step that is known when the kernel is made."""
    return lambda _: elements


Work = Callable[[dict[str, Var], Scalars, Expr, Expr], None]


def row_driver(
    pointers: Sequence[Pointer],
    scalar_names: Sequence[str],
    cost: Callable[[Scalars], Expr],
    grains: emit.Bounds,
    work: Work,
    by: str = "count",
) -> PrimFunc:
    """`driver(pointers, scalars, threads)`: `work` on rows 0..count-1, in parallel when it pays.

    scalar_names: the first is "count", the rows. cost: the bytes that all rows move. grains: the
    least KiB that are worth a thread's while, by bounds of the scalar `by`.
    """

    def body() -> None:
        given = {p.name: emit.argument(p.name, f"*{p.dtype}") for p in pointers}
        scalars = {name: emit.argument(name, "int64") for name in scalar_names}
        threads = emit.argument("threads", "int32")
        count = scalars["count"]
        grain = emit.by_bound(scalars[by], grains) * emit.i64(1024)
        useful = emit.quotient(cost(scalars), grain)
        wanted = te.max(te.min(te.min(emit.i64(threads), useful), count), emit.i64(1))
        tasks = emit.either(emit.i64(threads) > emit.i64(1), wanted, emit.i64(1))

        def everything() -> None:
            work(given, scalars, emit.i64(0), count)

        def shared_out() -> None:
            with each_task(tasks) as i:
                first, last = emit.task_bounds(i, tasks, count)
                work(given, scalars, first, last)

        emit.chain([(tasks <= emit.i64(1), everything), (None, shared_out)])

    return emit.private(body)


def call_core(core: GlobalVar, pointers: Sequence[Pointer], extra: Sequence[str] = ()) -> Work:
    """Work that calls `core(pointers at the first row, rows, extra scalars)` once."""

    def work(given: dict[str, Var], scalars: Scalars, first: Expr, last: Expr) -> None:
        moved = [_at_row(given[p.name], p.step(scalars), first) for p in pointers]
        emit.call(core, *moved, last - first, *(scalars[name] for name in extra))

    return work


@dataclass(frozen=True)
class Streamed:
    """A function that writes a large result past the caches.

    least: the bytes of such a result; vector_bytes: of what its start must be a multiple.
    """

    name: GlobalVar
    function: PrimFunc
    least: int
    vector_bytes: int

    @property
    def functions(self) -> Functions:
        """The function by its name."""
        return {self.name: self.function}

    def fits(self, size: Expr, out: Var) -> Expr:
        """Whether it can and should write `size` bytes to `out`."""
        return te.all(size >= emit.i64(self.least), starts_at_multiple(out, self.vector_bytes))


def streamed_rows(
    use: Use,
    make: Callable[..., tuple[GlobalVar, PrimFunc]],
    row_bytes: int,
    vector_bytes: int,
    target: Target,
) -> Streamed | None:
    """What `make(streamed="out")` gives, for a result of the model.

    vector_bytes: of the vectors that rows are stored in. None where the target has no such stores,
    whole vectors do not make up a row, the next kernel reads the result, or it is a half.
    """
    is_read = not use.leaves or is_half(use.dtype(0))
    if is_read or target.family != "x86" or row_bytes % vector_bytes:
        return None
    return Streamed(*make(streamed="out"), stream_from(target), min(vector_bytes, LARGEST_STORE))


def call_streamed(
    plain: Work, streamed: Streamed | None, pointers: Sequence[Pointer], row_bytes: int
) -> Work:
    """`plain`, or `streamed` where all rows of `row_bytes` make up a large result."""
    if streamed is None:
        return plain
    past_caches = call_core(streamed.name, pointers)

    def work(given: dict[str, Var], scalars: Scalars, first: Expr, last: Expr) -> None:
        fits = streamed.fits(scalars["count"] * emit.i64(row_bytes), given["out"])
        ways = [(fits, past_caches), (None, plain)]
        emit.chain([(when, partial(way, given, scalars, first, last)) for when, way in ways])

    return work


def _at_row(pointer: Var, step: Expr | int, row: Expr) -> Expr:
    if isinstance(step, int):
        if step == 0:
            return pointer
        step = emit.i64(step)
    return emit.offset(pointer, row * step)


def row_kernel(
    name: str,
    functions: Functions,
    pointers: Sequence[Pointer],
    scalar_names: Sequence[str],
    cost: int,
    work: Work,
    scalars: Callable[[Shapes], list[Expr]],
    report: dict[str, Any],
    grains: emit.Bounds = UNTUNED_GRAIN,
) -> Kernel:
    """A kernel over independent rows; cost: of one row, in bytes."""
    driver = GlobalVar(name)
    functions[driver] = row_driver(
        pointers,
        scalar_names,
        lambda s: s["count"] * emit.i64(cost),
        grains,
        work,
    )
    return Kernel(
        name,
        driver,
        functions,
        scalars,
        report={"schedule": schedule.ANALYTIC, **report},
        moved=lambda shapes: scalars(shapes)[0] * emit.i64(cost),
    )
