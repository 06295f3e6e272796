"""Loops whose tasks the threads of the pool share, with the caller's among them."""

from collections.abc import Iterator
from contextlib import contextmanager

from tvm.ir import Expr
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit

MOST_TASKS = 256  # of one loop: the bits of a job in pool.ll


@contextmanager
def each_task(tasks: Expr) -> Iterator[Var]:
    """A loop over i = 0..tasks-1, at most `MOST_TASKS`, whose tasks may run at the same time.

    TVM hands the pool a struct of what the body uses. Its first field is what the extent is
    computed from: the pool reads the number of tasks there.
    """
    with T.parallel(0, emit.i32(emit.kept(emit.i64(tasks)))) as i:
        yield i
