"""One pool of threads for the process, in every library; the first that is loaded becomes the pool.

Each library carries the pool's machine code, so that an artefact runs without a compiler and with
nothing beside it. TVM's code calls what shares out a parallel loop through a pointer, which
`use_pool` sets.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from tvm import tirx
from tvm.ir import CallingConv, Expr, GlobalVar
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.kernel import Functions
from tvmlayers.targets import Target
from tvmlayers.targets.target import architecture

# Of each architecture: the number of the system call futex, and the hint for loops that wait.
_WORDS = {
    "x86_64": ("202", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("98", "call void @llvm.aarch64.hint(i32 1)"),
}


def pool_functions(target: Target) -> Functions:
    """What a library's main module holds of the pool.

    `new_pool(cpus) -> launch` makes a pool without workers in this library, or empties it;
    `use_pool(launch)` sends this module's loops to the pool at that address. `parking(main) ->
    park` is for the end of the interpreter. `tvmlayers_launch`, `tvmlayers_worker` and
    `tvmlayers_park` are C functions: what a caller runs, what a worker does, and what a thread does
    that is to stay where it is, unless it is the one that Python calls `main`.
    """
    futex, pause = _WORDS[architecture(target.triple)]
    text = (files(__package__) / "pool.ll").read_text(encoding="utf-8")
    text = text.replace("FUTEX", futex).replace("PAUSE", pause)

    def new_pool() -> Expr:
        cpus = emit.argument("cpus", "int64")
        return tirx.call_extern("int64", "tvmlayers_new_pool", cpus)

    def use_pool() -> Expr:
        T.evaluate(tirx.call_extern("void", "tvmlayers_use_pool", emit.argument("launch", "int64")))
        return emit.i64(0)

    def parking() -> Expr:
        return tirx.call_extern("int64", "tvmlayers_parking", emit.argument("main", "int64"))

    def launch() -> None:
        body, data = emit.argument("body", "*int8"), emit.argument("data", "*int8")
        emit.argument("tasks", "int32")
        T.evaluate(tirx.call_extern("int32", "tvmlayers_share", body, data))

    def worker() -> None:
        number = emit.argument("number", "int64")
        T.evaluate(tirx.call_extern("void", "tvmlayers_work", number))

    def park() -> None:
        T.evaluate(tirx.call_extern("void", "tvmlayers_stay"))

    return {
        **emit.entry_point("new_pool", new_pool, [text]),
        **emit.entry_point("use_pool", use_pool),
        **emit.entry_point("parking", parking),
        GlobalVar("tvmlayers_launch"): _for_c(launch, "tvmlayers_launch"),
        GlobalVar("tvmlayers_worker"): _for_c(worker, "tvmlayers_worker"),
        GlobalVar("tvmlayers_park"): _for_c(park, "tvmlayers_park"),
    }


def _for_c(body: Callable[[], None], symbol: str) -> PrimFunc:
    """The function that `body` writes, for C to call by `symbol`."""
    attributes = {"global_symbol": symbol, "calling_conv": CallingConv.C_PACKED_FUNC}
    return emit.private(body).with_attr(attributes)
