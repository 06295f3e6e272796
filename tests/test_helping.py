"""Threads that are done take over what a slower one has not begun."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tvm import tirx
from tvm.ir import Expr, GlobalVar, IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

import tvmlayers as tl
from tvmlayers import _ffi, targets
from tvmlayers.build import emit
from tvmlayers.build.helping import go_over, taken_pieces, with_helping
from tvmlayers.build.pipeline import each_function, machine_code

TASKS, PIECES = 2, 6
PATIENCE = 5000  # milliseconds, until a thread that nobody helps does all of its pieces itself


def noting(waits: bool) -> Any:
    """`run(done)`: done[task * PIECES + piece] = 1 + the thread that did it.

    waits: the first piece of the first task takes until no other piece is left of that task.
    """

    def share_body() -> None:
        done, taken = emit.argument("done", "*int64"), emit.argument("taken", "*int64")
        i, tasks = emit.argument("i", "int64"), emit.argument("tasks", "int64")

        def share(task: Expr) -> tuple[Expr, Callable[[Expr], None]]:
            def do(piece: Expr) -> None:
                place = emit.bound(task * emit.i64(PIECES) + piece)
                T.buffer_store(emit.view(done), i + emit.i64(1), [place])
                if not waits:
                    return

                def wait() -> None:
                    with T.serial(emit.i64(0), emit.i64(PATIENCE)):
                        left = emit.view(taken)[emit.i64(0)] < emit.i64(PIECES)
                        sleep = tirx.call_extern("int32", "usleep", emit.i32(1000))
                        emit.when(left, lambda: T.evaluate(sleep))

                emit.when(tirx.all(place.equal(emit.i64(0)), i.equal(emit.i64(0))), wait)

            return emit.i64(PIECES), do

        go_over(i, tasks, taken, share)

    shared = GlobalVar("share")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_attr({"global_symbol": "run"})
        done = T.arg("done", T.buffer((TASKS * PIECES,), "int64"))
        tasks = emit.i64(TASKS)
        taken = taken_pieces(tasks)
        with T.parallel(0, TASKS) as i:
            emit.call(shared, done.data, taken, emit.i64(i), tasks)
    functions = {
        GlobalVar("run"): builder.get(),
        shared: with_helping(emit.private(share_body)),
    }
    target = targets.native()
    return machine_code(each_function(target)(IRModule(functions)), target)


@pytest.mark.skipif(targets.physical_cores() < TASKS, reason="needs two cores")
@pytest.mark.parametrize("waits", [False, True])
def test_each_piece_is_done_once_and_those_of_a_slow_thread_by_another(waits: bool) -> None:
    run = noting(waits)["run"]

    def runs() -> list[list[int]]:
        _ffi._set_pool_size(TASKS)  # of this thread, which has no pool yet
        made = [np.zeros(TASKS * PIECES, np.int64) for _ in range(20)]
        for done in made:
            run(_ffi.from_array(done))
        return [list(map(int, done)) for done in made]

    with ThreadPoolExecutor(1) as fresh:
        made = fresh.submit(runs).result()
    for done in made:
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
