"""The pool of threads: each task once, by the caller where no worker has begun it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from handmade import run_python
from pools import looping, note, on_pool, own_thread, wait_while
from tvm.ir import Expr

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.codegen import emit
from tvmlayers.codegen.parallel import MOST_TASKS
from tvmlayers.runtime import ffi, threads

NUMBERS = [1, 2, 3, 63, 64, 65, 128, 200, MOST_TASKS]


@pytest.fixture(scope="module")
def counting() -> Any:
    """notes[i] += i + 1 for each task i; notes[MOST_TASKS + i] is the thread that did it."""

    def task(i: Expr, _tasks: Expr, notes: Any) -> None:
        note(notes, i, emit.view(notes, "int64")[i] + i + emit.i64(1))
        note(notes, i + emit.i64(MOST_TASKS), own_thread())

    return looping(task)


def made(run: Any, tasks: int) -> tuple[list[int], set[int]]:
    notes = np.zeros(2 * MOST_TASKS, np.int64)
    run(ffi.from_array(notes), tasks)
    found = set(map(int, notes[MOST_TASKS : MOST_TASKS + tasks]))
    return notes[:MOST_TASKS].tolist(), found


def expected(tasks: int) -> list[int]:
    return [i + 1 if i < tasks else 0 for i in range(MOST_TASKS)]


@pytest.mark.parametrize("cpus", [1, 2, 5, 100])
def test_each_task_is_done_once(counting: Any, cpus: int) -> None:
    run = on_pool(counting, cpus)
    for tasks in NUMBERS * 20:
        done, found = made(run, tasks)
        assert done == expected(tasks)
        assert len(found) <= min(cpus, tasks)


def test_a_pool_for_one_cpu_leaves_all_to_the_caller(counting: Any) -> None:
    run = on_pool(counting, 1)
    before = threading.active_count()
    assert made(run, 8) == (expected(8), {threading.get_ident()})
    assert threading.active_count() == before


def test_each_task_is_done_once_where_many_threads_call(counting: Any) -> None:
    run = on_pool(counting, 3)

    def calls(place: int) -> None:
        for turn in range(300):
            tasks = NUMBERS[(place + turn) % len(NUMBERS)]
            assert made(run, tasks)[0] == expected(tasks)

    with ThreadPoolExecutor(16) as callers:
        list(callers.map(calls, range(16)))


def test_a_worker_takes_tasks_while_the_caller_is_at_one() -> None:
    def task(i: Expr, _tasks: Expr, notes: Any) -> None:
        """The first one ends when the second one has begun, which another thread does."""
        seen = emit.view(notes, "int64")
        note(notes, i, own_thread())
        emit.when(
            i.equal(emit.i64(0)),
            lambda: wait_while(lambda: seen[emit.i64(1)].equal(emit.i64(0))),
        )

    run = on_pool(looping(task), 2)
    notes = np.zeros(2, np.int64)
    run(ffi.from_array(notes), 2)
    assert notes[0] == threading.get_ident()
    assert notes[1] not in (0, notes[0])


def test_the_caller_does_what_no_worker_has_begun() -> None:
    """The one worker is held by another caller's task."""

    def task(i: Expr, tasks: Expr, notes: Any) -> None:
        """Of two tasks each waits until notes[2] is set; of three none does."""
        seen = emit.view(notes, "int64")
        note(notes, i, own_thread())
        emit.when(
            tasks.equal(emit.i64(2)),
            lambda: wait_while(lambda: seen[emit.i64(2)].equal(emit.i64(0))),
        )

    run = on_pool(looping(task), 2)
    held, free = np.zeros(3, np.int64), np.zeros(3, np.int64)
    holder = threading.Thread(target=run, args=(ffi.from_array(held), 2))
    holder.start()
    while not held[:2].all():  # both its threads are in a task
        pass
    run(ffi.from_array(free), 3)
    assert set(free) == {threading.get_ident()}
    held[2] = 1
    holder.join()


@pytest.mark.parametrize(
    ("asked", "variables", "expected"),
    [
        (None, {}, 4),
        (2, {}, 2),
        (8, {}, 8),
        (2**31, {}, 8),
        (None, {"OMP_NUM_THREADS": "2"}, 2),
        (3, {"OMP_NUM_THREADS": "2"}, 3),
        (None, {"OMP_NUM_THREADS": "20000"}, 8),
    ],
)
def test_a_call_has_the_threads_that_were_asked_for_up_to_the_cpus(
    asked: int | None, variables: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "usable_cpus", lambda: 8)
    monkeypatch.setattr(targets, "physical_cores", lambda: 4)
    monkeypatch.setattr(threads, "_USER_THREADS", None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert threads.count(asked) == expected


@pytest.mark.parametrize(("asked", "expected"), [(None, 3), (2, 2), (5, 3)])
def test_a_user_can_limit_the_threads_of_all_calls(
    asked: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "usable_cpus", lambda: 8)
    monkeypatch.setattr(threads, "_USER_THREADS", "3")
    assert threads.count(asked) == expected


@pytest.mark.parametrize("asked", [0, -1, 1.5, "2", True])
def test_a_number_of_threads_that_is_none_is_refused(asked: Any) -> None:
    with pytest.raises(tl.ConfigError, match="threads"):
        threads.count(asked)


MODEL = """
import contextlib, os, signal, sys, threading
import numpy as np
import tvmlayers as tl
from tvmlayers import targets
targets.usable_cpus = lambda: 2  # whatever this test runs on
layer = tl.Dense(512, "relu", input_dim=512)
model = tl.compile(layer, threads=2)
x = np.random.default_rng(0).standard_normal((256, 512)).astype(np.float32)
y = model(x)
def workers():
    found = []
    while not found:  # a thread names itself when it first runs
        for number in os.listdir("/proc/self/task"):
            path = f"/proc/self/task/{number}/comm"
            with contextlib.suppress(FileNotFoundError), open(path) as name:
                found += [number] * (name.read() == "tvmlayers\\n")
    return found
"""


def test_a_call_that_shares_work_starts_the_workers_which_take_no_signals() -> None:
    program = MODEL + (
        "(one,) = workers()\n"
        "for _ in range(20): model(x)\n"
        "assert workers() == [one]\n"
        "with open(f'/proc/self/task/{one}/status') as file: status = file.read()\n"
        "blocked = int(status.split('SigBlk:')[1].split()[0], 16)\n"
        "print(blocked >> (signal.SIGALRM - 1) & 1, blocked >> (signal.SIGINT - 1) & 1)"
    )
    assert run_python(program) == "1 1"


def test_a_forked_child_computes_the_same_with_workers_of_its_own() -> None:
    program = MODEL + (
        "child = os.fork()\n"
        "same = all(np.array_equal(model(x), y) for _ in range(50))\n"
        "found = len(workers())\n"
        "if child == 0: os._exit(0 if same and found == 1 else 1)\n"
        "_, status = os.waitpid(child, 0)\n"
        "print(same, found, status)"
    )
    assert run_python(program) == "True 1 0"


def test_many_callers_do_not_make_many_threads() -> None:
    program = MODEL + (
        "before, most = len(os.listdir('/proc/self/task')), []\n"
        "def call():\n"
        "    for _ in range(30): assert np.array_equal(model(x), y)\n"
        "    most.append(len(os.listdir('/proc/self/task')))\n"
        "callers = [threading.Thread(target=call) for _ in range(16)]\n"
        "[each.start() for each in callers]\n"
        "[each.join() for each in callers]\n"
        "assert len(most) == 16\n"
        "print(max(most) <= before + 16 + 2, len(workers()))"
    )
    assert run_python(program) == "True 1"


def test_the_interpreter_ends_quietly_while_daemon_threads_call() -> None:
    program = MODEL + (
        "begun = threading.Barrier(4)\n"
        "def call():\n"
        "    begun.wait()\n"
        "    while True: model(x)\n"
        "for _ in range(3): threading.Thread(target=call, daemon=True).start()\n"
        "begun.wait()\n"
        "for _ in range(50): model(x)\n"
        "print('end')"
    )
    for _ in range(2):
        assert run_python(program) == "end"
