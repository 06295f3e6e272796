"""Threads that are done take over what a slower one has not begun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pools import looping, note, on_pool, wait_while
from tvm import tirx
from tvm.ir import Expr, GlobalVar

import tvmlayers as tl
from tvmlayers.codegen import emit
from tvmlayers.codegen.work_stealing import go_over, with_stealing
from tvmlayers.runtime import ffi

TASKS, PIECES = 2, 6


def noting(waits: bool) -> Any:
    """`run(notes, TASKS)`: notes[task * PIECES + piece] = 1 + the task that did it.

    waits: the first piece of the first task takes until no other piece is left of that task.
    """
    shared = GlobalVar("share")
    end = emit.i64(TASKS * PIECES)  # where what has been taken is counted

    def share_body() -> None:
        done, taken = emit.argument("done", "*int64"), emit.argument("taken", "*int64")
        i, tasks = emit.argument("i", "int64"), emit.argument("tasks", "int64")

        def share(task: Expr) -> tuple[Expr, Callable[[Expr], None]]:
            def do(piece: Expr) -> None:
                place = emit.bound(task * emit.i64(PIECES) + piece)
                note(done, place, i + emit.i64(1))
                if waits:
                    first = tirx.all(place.equal(emit.i64(0)), i.equal(emit.i64(0)))
                    left = emit.view(taken)
                    emit.when(
                        first, lambda: wait_while(lambda: left[emit.i64(0)] < emit.i64(PIECES))
                    )

            return emit.i64(PIECES), do

        go_over(i, tasks, taken, share)

    def task(i: Expr, tasks: Expr, notes: Any) -> None:
        emit.call(shared, notes, tirx.address_of(emit.view(notes, "int64")[end]), i, tasks)

    return looping(task, {shared: with_stealing(emit.private(share_body))})


@pytest.mark.parametrize("waits", [False, True])
def test_each_piece_is_done_once_and_those_of_a_slow_thread_by_another(waits: bool) -> None:
    code = noting(waits)
    for _ in range(5):
        run = on_pool(code, TASKS)  # one that has not learned that others use the CPUs
        notes = np.zeros(TASKS * (PIECES + 1), np.int64)
        run(ffi.from_array(notes), TASKS)
        done = notes[: TASKS * PIECES].tolist()
        assert set(done) <= {1, 2}
        if waits:
            assert done == [1, *[2] * (TASKS * PIECES - 1)]


def test_results_do_not_depend_on_who_did_what() -> None:
    model = tl.Sequential(
        [
            tl.Embedding(50, 64, input_shape=()),
            tl.Dense(128, "relu"),
            tl.Dense(33, "softmax"),
            tl.Dense(7),
        ]
    )
    layer = tl.Dense(200, "tanh", input_dim=64)
    alone, both = (tl.compile(model, threads=threads) for threads in (1, 2))
    one, two = (tl.compile(layer, threads=threads) for threads in (1, 2))
    for rows in (1, 63, 64, 65, 200, 777, 2048):
        ids = np.random.default_rng(rows).integers(0, 50, (rows,))
        x = np.random.default_rng(rows).standard_normal((rows, 64), np.float32)
        np.testing.assert_allclose(both(ids), alone(ids), rtol=1e-5, atol=1e-6)
        first = two(x)
        np.testing.assert_allclose(first, one(x), rtol=1e-5, atol=1e-6)
        for _ in range(5):
            np.testing.assert_array_equal(two(x), first)
