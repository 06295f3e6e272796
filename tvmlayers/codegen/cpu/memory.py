"""Memory that a function has for one call, from the C library."""

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Call, Expr, Op, StringImm
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.private import pointer_type

_ALIGNMENT = 1024  # bytes: that of a tile of AMX


def with_memory(size: int, use: Callable[[Var], None]) -> None:
    """`use` with a pointer to so many bytes; not at all where there is no memory."""
    rounded = -(-size // _ALIGNMENT) * _ALIGNMENT
    memory = emit.bound(pointer_from("aligned_alloc", emit.i64(_ALIGNMENT), emit.i64(rounded)))

    def write() -> None:
        use(memory)
        T.evaluate(tirx.call_extern("int32", "free", memory))

    emit.when(tirx.Not(tirx.isnullptr(memory)), write)


def pointer_from(function: str, *arguments: Expr) -> Expr:
    """The pointer to bytes that a function outside gives."""
    called = [StringImm(function), *arguments]
    return Call(Op.get("tirx.call_extern"), called, ret_ty=pointer_type("uint8"))
