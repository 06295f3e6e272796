"""The tasks of a call, each on a thread, and each thread on a CPU of its own.

Linux may wake a thread of the pool on the very CPU of the thread that calls, though another one
idles: with few CPUs it does not look for an idle one where all were busy a while ago. The two then
take turns on that CPU, and it takes tens of milliseconds until something parts them. So a thread
that finds itself where the caller was leaves.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.build import emit
from tvmlayers.build.private import with_text

_SELF, _CPU, LEAVE = "pthread_self", "sched_getcpu", "tvmlayers_leave"
# A thread moves when its CPU is taken out of its mask; it gets all of them back at once. With fewer
# CPUs than tasks some have to share one. The mask has room for 1024 CPUs: where there are more the
# system does not give it; and where it does not tell the CPU, that is -1.
_TEXT = f"""
declare i64 @{_SELF}()
declare i32 @{_CPU}()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)
declare i32 @__sched_cpucount(i64, ptr)

define void @{LEAVE}(i64 %caller, i32 %cpu, i32 %tasks) {{
entry:
  %mask = alloca [16 x i64], align 8
  %self = call i64 @{_SELF}()
  %is_caller = icmp eq i64 %self, %caller
  br i1 %is_caller, label %stay, label %look
look:
  %here = call i32 @{_CPU}()
  %shared = icmp eq i32 %here, %cpu
  br i1 %shared, label %fits, label %stay, !prof !0
fits:
  %in_mask = icmp ult i32 %cpu, 1024
  br i1 %in_mask, label %ask, label %stay
ask:
  %failed = call i32 @sched_getaffinity(i32 0, i64 128, ptr %mask)
  %known = icmp eq i32 %failed, 0
  br i1 %known, label %count, label %stay
count:
  %cpus = call i32 @__sched_cpucount(i64 128, ptr %mask)
  %enough = icmp sge i32 %cpus, %tasks
  br i1 %enough, label %leave, label %stay
leave:
  %number = zext i32 %cpu to i64
  %word = lshr i64 %number, 6
  %place = getelementptr i64, ptr %mask, i64 %word
  %of_word = and i64 %number, 63
  %bit = shl i64 1, %of_word
  %without = xor i64 %bit, -1
  %all = load i64, ptr %place
  %others = and i64 %all, %without
  store i64 %others, ptr %place
  %left = call i32 @sched_setaffinity(i32 0, i64 128, ptr %mask)
  store i64 %all, ptr %place
  %free = call i32 @sched_setaffinity(i32 0, i64 128, ptr %mask)
  br label %stay
stay:
  ret void
}}

!0 = !{{!"branch_weights", i32 1, i32 1000}}
"""


@contextmanager
def each_task(tasks: Expr) -> Iterator[Var]:
    """A loop over i = 0..tasks-1 on the threads of TVM's pool, the caller's among them.

    The function that this is written in needs `with_tasks`.
    """
    caller = emit.kept(tirx.call_extern("int64", _SELF))
    cpu = emit.kept(emit.i64(tirx.call_extern("int32", _CPU)))
    with T.parallel(0, emit.i32(tasks)) as i:
        leave = tirx.call_extern("void", LEAVE, caller, emit.i32(cpu), emit.i32(tasks))
        T.evaluate(leave)
        yield i


def with_tasks(function: PrimFunc) -> PrimFunc:
    """The function with LLVM's text of what `each_task` calls."""
    return function.with_body(with_text(function.body, _TEXT))
