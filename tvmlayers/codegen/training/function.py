"""The step as one host function: what the tape says, in phases of work that threads share.

Mostly there are two. First the rows of the batch go forwards and backwards through all layers, a
block at a time: what a block needs stays in the cache of the thread that has it. Whatever needs the
inputs alone goes along with them. Then, if nothing was refused, all weights are updated. A layer
that needs the whole batch has phases of its own in between. Blocks and units are the same whatever
the number of threads, and so are the bits of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu import Kernel, elements
from tvmlayers.codegen.cpu.kernel import Functions
from tvmlayers.codegen.cpu.units import Units
from tvmlayers.codegen.graph import extent
from tvmlayers.codegen.parallel import MOST_TASKS, each_task
from tvmlayers.codegen.training.numbers import write_numbers, zero_squares
from tvmlayers.codegen.training.tape import (
    FIRST_ROW,
    Dims,
    Phase,
    Run,
    Tape,
    Value,
)
from tvmlayers.codegen.weights import ALIGNMENT
from tvmlayers.codegen.work_stealing import go_over, taken_pieces, with_stealing
from tvmlayers.expr.optimizers import rounded
from tvmlayers.runtime.signature import LAST_STATUS_BIT

# Rows of a block: a share of the batch for all threads to have some, within these bounds.
_LEAST_ROWS, _MOST_ROWS, _BLOCKS = 16, 64, 8


@dataclass(frozen=True)
class OutputSpec:
    """One output of the model and its loss, as values of the tape.

    weight: how much its loss counts; rows: the loss of each sample; numbers: see
    `codegen.cpu.losses`; gradient: that of the prediction, the output without `activation`.
    """

    name: str
    weight: float
    truth: Value
    rows: Value
    numbers: Value
    prediction: Value
    gradient: Value
    activation: str | None = None


@dataclass(frozen=True)
class StepSpec:
    """What the host function takes and gives, as values of its tape; dtype: of all outputs."""

    tape: Tape
    inputs: Sequence[Value]
    outputs: Sequence[OutputSpec]
    sample_weight: Value
    dtype: str

    @property
    def given(self) -> list[Value]:
        """What comes with a call: the inputs, and the truth of each output."""
        return [*self.inputs, *(output.truth for output in self.outputs)]


def step_function(symbol: str, spec: StepSpec) -> tuple[Functions, list[dict[str, Any]]]:
    """(the function with what it calls but the kernels, what the bits of its status mean).

    `f(*inputs, *truths, sample_weight, weighted, loss, arena, rate, threads, scratch) -> status`:
    weighted is 1 where sample_weight counts; loss: float64 (1 + outputs,), the sum of the outputs'
    losses by their weights, and each of them without; rate: of the optimiser of dense
    weights and that of tables, float64 (2,). A status of 0 is a step that was made. Bit i of a
    positive one is set where check i failed, and a negative one is minus the bytes of scratch that
    are needed: then nothing was changed.
    """
    writer = _Writer(symbol, spec)
    functions = writer.written()
    return functions, writer.checks


class _Writer:
    def __init__(self, symbol: str, spec: StepSpec) -> None:
        self.symbol, self.spec, self.tape = symbol, spec, spec.tape
        self.symbols: dict[str, Var] = {}
        self.functions: Functions = {}
        self.checks: list[dict[str, Any]] = []
        self.flags_of: dict[int, list[int]] = {}
        places = {id(value): i for i, value in enumerate(spec.given)}
        for run in (run for phase in self.tape.phases for run in phase.rows):
            self.flags_of[id(run)] = []
            for check in run.checks:
                self.flags_of[id(run)].append(len(self.checks))
                given = next(v for v in run.values if id(v.root) in places)
                if check["kind"] == "label":
                    _, given, *_ = run.values
                self.checks.append({**check, "input": places[id(given.root)]})

    # The values of all functions: pointers and sizes.

    def _values(self, runs: Sequence[Run]) -> list[Value]:
        """Those that the runs take, each memory once."""
        return list(dict.fromkeys(value.root for run in runs for value in run.values))

    def _symbols(self, runs: Sequence[Run]) -> list[str]:
        dims = [dim for run in runs for value in run.values for dim in value.dims]
        dims += [dim for run in runs for size in run.sizes.values() for dim in size]
        names = [dim for dim in dims if isinstance(dim, str) and dim != FIRST_ROW]
        return list(dict.fromkeys(["n", *names]))

    def written(self) -> Functions:
        rounds = [self._round(f"phase{i}", phase) for i, phase in enumerate(self.tape.phases)]
        updates = self._round("updates", self.tape.updates)
        norms = [self._round(f"norms{i}", each) for i, each in enumerate(self.tape.collecting)]

        def body() -> Expr:
            return self._host(rounds, norms, updates)

        return {**self.functions, **emit.entry_point(self.symbol, body)}

    # Rows: a block goes through all kernels.

    def _rows_function(self, label: str, runs: Sequence[Run]) -> GlobalVar:
        name = GlobalVar(f"{self.symbol}_{label}_rows")

        def body() -> None:
            pointers, flags, sizes = self._arguments(runs, len(self.checks))
            sizes[FIRST_ROW] = emit.argument("first_row", "int64")
            for run in runs:
                assert isinstance(run.what, Kernel)
                shapes = [[_size(dim, sizes) for dim in value.dims] for value in run.values]
                emit.call(
                    run.what.entry,
                    *(pointers[value.root] for value in run.values),
                    *(flags[i] for i in self.flags_of[id(run)]),
                    *run.what.scalars(shapes),
                    *(_product(dims, sizes) for dims in run.sizes.values()),
                    emit.i32(1),
                )

        self.functions[name] = emit.noinline(emit.private(body))
        return name

    def _arguments(
        self, runs: Sequence[Run], flag_count: int
    ) -> tuple[dict[Value, Var], list[Var], dict[str, Var]]:
        """Parameters of a function that does these runs."""
        pointers = {
            value: emit.argument(f"v{i}", f"*{value.dtype}")
            for i, value in enumerate(self._values(runs))
        }
        flags = [emit.argument(f"flag{i}", "*int32") for i in range(flag_count)]
        return pointers, flags, {each: emit.argument(each, "int64") for each in self._symbols(runs)}

    # A round: units that threads take one after another.

    def _round(self, label: str, phase: Phase) -> _Round:
        every = phase.runs
        rows = self._rows_function(label, phase.rows) if phase.rows else None
        flag_count = len(self.checks) if rows is not None else 0
        task = GlobalVar(f"{self.symbol}_{label}")

        def body() -> None:
            pointers, flags, sizes = self._arguments(every, flag_count)
            taken = emit.argument("taken", "*int64")
            i, tasks = emit.argument("i", "int32"), emit.argument("tasks", "int32")
            work = [
                (emit.kept(self._count(run, sizes)), self._unit(run, pointers, sizes))
                for run in phase.units
            ]
            if rows is not None:
                blocks = emit.kept(_blocks(sizes["n"]))
                work.append((blocks, self._block(rows, phase.rows, pointers, flags, sizes)))

            def share(of: Expr) -> tuple[Expr, Callable[[Expr], None]]:
                """Of every run some units, the same ones in each step, whose data may lie near."""
                parts = []
                end: Expr = emit.i64(0)
                for count, do in work:
                    first, last = map(emit.kept, emit.task_bounds(of, tasks, count))
                    begin, end = end, emit.kept(end + last - first)
                    parts.append((end, first - begin, count, do))

                def piece(place: Expr) -> None:
                    *some, (_, *rest) = parts
                    branches: list[tuple[Expr | None, Callable[[], None]]] = [
                        (place < end, partial(do, place + shift, count))
                        for end, shift, count, do in some
                    ]
                    shift, count, do = rest
                    emit.chain([*branches, (None, partial(do, place + shift, count))])

                return end, piece

            go_over(i, tasks, taken, share)

        if every:
            self.functions[task] = emit.noinline(with_stealing(emit.private(body)))
        return _Round(task, phase)

    def _count(self, run: Run, sizes: dict[str, Var]) -> Expr:
        assert isinstance(run.what, Units)
        return run.what.count({name: _product(dims, sizes) for name, dims in run.sizes.items()})

    def _unit(
        self,
        run: Run,
        pointers: dict[Value, Var],
        sizes: dict[str, Var],
    ) -> _Unit:
        def do(unit: Expr, count: Expr) -> None:
            emit.call(
                run.what.entry,
                *(pointers[value.root] for value in run.values),
                *(_product(dims, sizes) for dims in run.sizes.values()),
                unit,
                count,
            )

        return do

    def _block(
        self,
        rows: GlobalVar,
        runs: Sequence[Run],
        pointers: dict[Value, Var],
        flags: Sequence[Var],
        sizes: dict[str, Var],
    ) -> _Unit:
        """A block of rows of all values that have some."""

        def do(unit: Expr, count: Expr) -> None:
            n, *others = (sizes[name] for name in self._symbols(runs))
            first, last = emit.task_bounds(unit, count, n)
            first = emit.bound(first)
            moved = []
            for value in self._values(runs):
                step = _product(value.dims[1:], sizes)
                pointer = pointers[value]
                moved.append(emit.offset(pointer, first * step) if value.has_rows else pointer)
            emit.call(rows, *moved, *flags, last - first, *others, first)

        return do

    # The host function.

    def _host(self, rounds: Sequence[_Round], norms: Sequence[_Round], updates: _Round) -> Expr:
        spec, tape = self.spec, self.tape
        pointers: dict[Value, Expr] = {}
        for i, value in enumerate(spec.given):
            pointers[value] = self._tensor(f"in{i}", value).data
        given = Value(spec.sample_weight.name, ("weights",), spec.dtype)
        pointers[spec.sample_weight] = self._tensor("sample_weight", given).data
        weighted = T.arg("weighted", Var("weighted", "int64"))
        count = len(spec.outputs)
        loss = T.arg("loss", T.buffer((1 + count,), "float64", align=8))
        arena = T.arg("arena", T.buffer((tape.arena.arena_bytes,), "uint8", align=64))
        rates = T.arg("rates", T.buffer((2,), "float64", align=8))
        threads = T.arg("threads", Var("threads", "int32"))
        room = Var("room", "int64")
        scratch = T.arg("scratch", T.buffer((room,), "uint8", align=ALIGNMENT))
        n = self.symbols["n"]
        self._place_scratch(scratch, room, pointers)
        for value in self._values(tape.runs):
            if value.offset is not None:
                pointers[value] = tirx.address_of(arena[emit.i64(value.offset)])
        flags = T.alloc_buffer((max(len(self.checks), 1),), "int32")
        for i in range(len(self.checks)):
            T.buffer_store(flags, tirx.const(0, "int32"), [i])
        for output in spec.outputs:
            numbers = T.alloc_buffer((2,), spec.dtype)
            share = tirx.const(output.weight, "float64") / tirx.Cast("float64", n)
            T.buffer_store(numbers, rounded(share, spec.dtype), [0])
            T.buffer_store(numbers, tirx.Cast(spec.dtype, weighted), [1])
            pointers[output.numbers] = numbers.data
        flag_pointers = [tirx.address_of(flags[i]) for i in range(len(self.checks))]
        for made in rounds:
            self._share(made, pointers, flag_pointers, threads)
        status: Expr = emit.i64(0)
        for i in range(len(self.checks)):
            bit = emit.i64(min(i, LAST_STATUS_BIT))
            status = tirx.bitwise_or(status, tirx.Cast("int64", flags[i]) << bit)
        status = emit.kept(status)
        emit.when(status != emit.i64(0), lambda: T.Return(status))
        self._add_losses(pointers, loss, n)
        squares = zero_squares(tape, pointers)
        for made in norms:
            self._share(made, pointers, [], threads)
        write_numbers(tape, arena, rates, pointers, squares)
        self._share(updates, pointers, [], threads)
        return emit.i64(0)

    def _tensor(self, name: str, value: Value) -> Any:
        shape = [extent(dim, self.symbols) for dim in value.dims]
        return T.arg(name, T.buffer(shape, value.dtype, align=np.dtype(value.dtype).itemsize))

    def _place_scratch(self, scratch: Any, room: Var, pointers: dict[Value, Expr]) -> None:
        """Give every value that is made its place, or answer how much room there must be."""
        used: Expr = emit.i64(0)
        for value in self.tape.values:
            pointers[value] = tirx.address_of(scratch[used])
            nbytes = _product(value.dims, self.symbols) * emit.i64(np.dtype(value.dtype).itemsize)
            lines = emit.ceil_div(nbytes, ALIGNMENT) + emit.i64(1)
            used = emit.bound(used + lines * emit.i64(ALIGNMENT))
        emit.when(room < used, lambda: T.Return(emit.i64(0) - used))

    def _share(
        self, made: _Round, pointers: dict[Value, Expr], flags: Sequence[Expr], threads: Expr
    ) -> None:
        """Do the units of a round, on as many threads as there may be."""
        phase, every = made.phase, made.phase.runs
        if not every:
            return
        total: Expr = emit.i64(0)
        for run in phase.units:
            total = total + self._count(run, self.symbols)
        if phase.rows:
            total = total + _blocks(self.symbols["n"])
        total = emit.kept(total)
        most = te.min(te.min(emit.i64(threads), total), emit.i64(MOST_TASKS))
        tasks = emit.bound(emit.i32(emit.kept(te.max(most, emit.i64(1)))))
        arguments = [
            *(pointers[value] for value in self._values(every)),
            *(flags if phase.rows else []),
            *(self.symbols[name] for name in self._symbols(every)),
            taken_pieces(tasks),
        ]

        def everything() -> None:
            emit.call(made.task, *arguments, emit.i32(0), emit.i32(1))

        def shared_out() -> None:
            with each_task(tasks) as i:
                emit.call(made.task, *arguments, i, tasks)

        emit.chain([(tasks <= 1, everything), (None, shared_out)])

    def _add_losses(self, pointers: dict[Value, Expr], loss: Any, n: Var) -> None:
        """The means of the samples' losses, summed in float64 in the order of the samples."""
        total: Expr = tirx.const(0.0, "float64")
        for place, output in enumerate(self.spec.outputs, 1):
            rows = emit.view(emit.bound(pointers[output.rows]), self.spec.dtype)
            sums = T.alloc_buffer((1,), "float64")
            T.buffer_store(sums, tirx.const(0.0, "float64"), [0])
            with T.serial(emit.i64(0), n) as i:
                T.buffer_store(sums, sums[0] + tirx.Cast("float64", rows[i]), [0])
            T.buffer_store(loss, sums[0] / tirx.Cast("float64", n), [place])
            total = total + loss[place] * tirx.const(output.weight, "float64")
        T.buffer_store(loss, total, [0])


_Unit = Callable[[Expr, Expr], None]
"""Writes the work of one of so many units."""


@dataclass(frozen=True)
class _Round:
    """The function of a task, and the phase whose units it does."""

    task: GlobalVar
    phase: Phase


def _size(dim: int | str, sizes: dict[str, Var]) -> Expr:
    return emit.i64(dim) if isinstance(dim, int) else sizes[dim]


def _product(dims: Dims, sizes: dict[str, Var]) -> Expr:
    return elements([_size(dim, sizes) for dim in dims])


def _blocks(n: Expr) -> Expr:
    """In how many blocks so many rows go through the layers."""
    share = emit.ceil_div(n, _BLOCKS)
    rows = te.min(te.max(share, emit.i64(_LEAST_ROWS)), emit.i64(_MOST_ROWS))
    return te.max(emit.quotient(n, rows), te.min(n, emit.i64(1)))
