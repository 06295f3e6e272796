"""Parallel loops on a pool of threads of their own, for tests of the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.ir import Expr, GlobalVar, IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from tvmlayers import targets
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.kernel import Functions
from tvmlayers.codegen.parallel import each_task
from tvmlayers.codegen.pipeline import each_function, machine_code
from tvmlayers.codegen.pool import pool_functions

# Workers never leave the code of their pool, which so has to stay.
_KEPT: list[Any] = []
PATIENCE = 60_000  # milliseconds that a task waits for another one, which comes in far fewer


def looping(task: Callable[[Expr, Expr, Expr], None], more: Functions | None = None) -> Any:
    """`run(notes, tasks)`, the loop over `task(i, tasks, notes)`, in a module with a pool.

    notes: an int64 array. The module's `new_pool(cpus)` makes the pool, which its loop uses then.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_attr({"global_symbol": "run"})
        room = tirx.Var("room", "int64")
        notes = T.arg("notes", T.buffer((room,), "int64"))
        tasks = T.arg("tasks", tirx.Var("tasks", "int64"))
        with each_task(tasks) as i:
            task(emit.i64(i), tasks, notes.data)
    target = targets.native()
    functions = {GlobalVar("run"): builder.get(), **(more or {}), **pool_functions(target)}
    code = machine_code(each_function(target)(IRModule(functions)), target)
    _KEPT.append(code)
    return code


def on_pool(code: Any, cpus: int) -> Callable[..., Any]:
    """The loop of that module on a new pool for so many CPUs, which has no workers yet."""
    code["use_pool"](code["new_pool"](cpus))
    run: Callable[..., Any] = code["run"]
    return run


def note(notes: Any, place: Expr, value: Expr) -> None:
    T.buffer_store(emit.view(notes, "int64"), value, [place])


def own_thread() -> Expr:
    """What tells threads apart."""
    return tirx.call_extern("int64", "pthread_self")


def wait_while(condition: Callable[[], Expr]) -> None:
    """Sleeps until the condition no longer holds."""
    with T.serial(emit.i64(0), emit.i64(PATIENCE)):
        sleep = tirx.call_extern("int32", "usleep", emit.i32(1000))
        emit.when(condition(), lambda: T.evaluate(sleep))
