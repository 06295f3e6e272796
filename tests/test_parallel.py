"""Threads of a call that find themselves on the caller's CPU leave it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tvm import tirx
from tvm.ir import GlobalVar, IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

import tvmlayers as tl
from tvmlayers import _ffi, targets
from tvmlayers.build import parallel
from tvmlayers.build.pipeline import each_function, machine_code

TRIES = 20
# Of all tries: the system may move a thread by itself at any moment, though it seldom does.
MOST = 0.7
# Where it has other work on both CPUs: to move a thread back. Without leaving none is found.
SOME = 0.25
CPUS = sorted(os.sched_getaffinity(0))
libc = ctypes.CDLL(None)

pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")


@pytest.fixture(scope="module")
def leave() -> Callable[[int, int, int], Any]:
    """`leave(caller, cpu, tasks)`, the function that each task begins with."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_attr({"global_symbol": "run"})
        caller, cpu = (
            T.arg("caller", tirx.Var("caller", "int64")),
            T.arg("cpu", tirx.Var("cpu", "int32")),
        )
        tasks = T.arg("tasks", tirx.Var("tasks", "int32"))
        T.evaluate(tirx.call_extern("void", parallel.LEAVE, caller, cpu, tasks))
    target = targets.native()
    function = parallel.with_tasks(builder.get())
    code = machine_code(each_function(target)(IRModule({GlobalVar("run"): function})), target)
    run: Callable[[int, int, int], Any] = code["run"]
    return run


def in_new_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as other:
        return other.submit(call).result()


@pytest.mark.parametrize(
    ("own_thread", "own_cpu", "tasks", "leaves"),
    [(False, True, 2, True), (True, True, 2, False), (False, False, 2, False)],
)
def test_a_thread_leaves_the_cpu_of_another_that_calls(
    leave: Callable[[int, int, int], Any], own_thread: bool, own_cpu: bool, tasks: int, leaves: bool
) -> None:
    def moves() -> int:
        moved = 0
        for _ in range(TRIES):
            here = libc.sched_getcpu()
            other = next(cpu for cpu in CPUS if cpu != here)
            leave(threading.get_ident() * own_thread, here if own_cpu else other, tasks)
            moved += libc.sched_getcpu() != here
            assert os.sched_getaffinity(0) == set(CPUS)
        return moved

    moved = in_new_thread(moves)
    assert moved >= MOST * TRIES if leaves else moved <= (1 - MOST) * TRIES


def test_it_stays_where_there_are_fewer_cpus_than_tasks(
    leave: Callable[[int, int, int], Any],
) -> None:
    def stays() -> None:
        here = libc.sched_getcpu()
        os.sched_setaffinity(0, {here})
        leave(0, here, 2)
        assert libc.sched_getcpu() == here
        assert os.sched_getaffinity(0) == {here}

    in_new_thread(stays)


def by_rows() -> tuple[Any, Any]:
    layer = tl.Dense(512, input_dim=256)
    return tl.Sequential([layer]), np.ones((192, 256), np.float32)


def by_panels() -> tuple[Any, Any]:
    layer = tl.Dense(2048, "softmax", input_dim=2048)
    return tl.Sequential([layer]), np.ones((2, 2048), np.float32)


def chained() -> tuple[Any, Any]:
    model = tl.Sequential([tl.Dense(256, input_dim=256), tl.Dense(64)])
    return model, np.ones((192, 256), np.float32)


def looked_up() -> tuple[Any, Any]:
    return tl.Sequential([tl.Embedding(5000, 256, input_shape=())]), np.zeros(20_000, np.int64)


@pytest.fixture
def busy_elsewhere() -> Iterator[None]:
    """Keeps the second CPU at work: the system then leaves on the first what was there last."""
    spin = f"import os; os.sched_setaffinity(0, {{{CPUS[1]}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as process:
        time.sleep(0.3)
        yield
        process.kill()


@pytest.mark.usefixtures("busy_elsewhere")
@pytest.mark.parametrize("make", [by_rows, by_panels, chained, looked_up])
def test_whatever_shares_work_out_parts_the_threads(make: Callable[[], tuple[Any, Any]]) -> None:
    model, given = make()
    compiled = tl.compile(model, threads=2)

    def apart() -> int:
        """How often a worker that was on the caller's CPU is on another one after a call."""
        _ffi.here.threads = 2  # whatever other models in this process asked for
        _ffi._set_pool_size(2)
        before = set(os.listdir("/proc/self/task"))
        compiled(given)
        (worker,) = [int(each) for each in set(os.listdir("/proc/self/task")) - before]
        os.sched_setaffinity(0, {CPUS[0]})
        found = 0
        for _ in range(TRIES):
            os.sched_setaffinity(worker, {CPUS[0]})
            time.sleep(0.002)
            os.sched_setaffinity(worker, set(CPUS[:2]))
            compiled(given)
            found += cpu_of(worker) == CPUS[1]
        return found

    assert in_new_thread(apart) >= SOME * TRIES


def cpu_of(thread: int) -> int:
    """The CPU that a thread is on, or was on last."""
    with open(f"/proc/self/task/{thread}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[36])
