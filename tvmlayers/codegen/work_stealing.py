"""Work stealing: work shared out among threads in pieces; idle threads take those that are left.

Threads are seldom equally fast: a core shared with another guest, or a small one beside large ones,
would keep all the others waiting. Each still begins with its own share, whose data may lie near.
"""

from collections.abc import Callable

from tvm import te, tirx
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.parallel import MOST_TASKS
from tvmlayers.codegen.private import with_text

_HELPED = 3  # neighbours that a thread looks at when it is done: of many threads not all
_TAKE = "tvmlayers_take_piece"
_TEXT = f"""
define i64 @{_TAKE}(ptr %taken) alwaysinline {{
  %piece = atomicrmw add ptr %taken, i64 1 monotonic
  ret i64 %piece
}}
"""


def taken_pieces(tasks: Expr) -> Var:
    """A pointer to what `go_over` counts in, all zero, for at most `MOST_TASKS`; int64 each.

    In the function whose parallel loop calls that of `go_over`.
    """
    taken = emit.on_stack(MOST_TASKS, "int64")
    with T.serial(emit.i64(0), emit.i64(tasks)) as task:
        T.buffer_store(emit.view(taken), emit.i64(0), [task])
    return taken


def go_over(
    i: Expr, tasks: Expr, taken: Var, share: Callable[[Expr], tuple[Expr, Callable[[Expr], None]]]
) -> None:
    """What thread i of `tasks` does: its own pieces, then those that its neighbours have left.

    taken: of `taken_pieces`; the function that this is written in needs `with_stealing`.
    share: gives the number of pieces of a task, and what writes the work of one of them.
    """
    i, tasks = emit.i64(i), emit.i64(tasks)
    piece = emit.view(emit.on_stack(1, "int64"))

    def take(task: Expr) -> None:
        place = tirx.address_of(emit.view(taken)[task])
        T.buffer_store(piece, tirx.call_extern("int64", _TAKE, place), [emit.i64(0)])

    with T.serial(emit.i64(0), te.min(tasks, emit.i64(1 + _HELPED))) as turn:
        task = emit.kept(emit.either(i + turn < tasks, i + turn, i + turn - tasks))
        pieces, do = share(task)
        take(task)
        with T.While(piece[emit.i64(0)] < pieces):
            do(emit.kept(piece[emit.i64(0)]))
            take(task)


def with_stealing(function: PrimFunc) -> PrimFunc:
    """The function with LLVM's text of what `go_over` calls."""
    return function.with_body(with_text(function.body, _TEXT))
