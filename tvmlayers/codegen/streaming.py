"""Results that are written past the caches: stores that do not read a line before they fill it.

TVM has no such store and LLVM no intrinsic for it, only a mark on an ordinary one. So a few
functions of LLVM's own language are brought in, which vanish where they are called.
"""

from collections.abc import Iterable

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import PrimFunc, Stmt, Var
from tvm_ffi import structural_map

from tvmlayers.codegen import emit
from tvmlayers.codegen.private import STREAMED, with_text
from tvmlayers.targets import Target

# Below this many bytes what comes next may find the result in a cache near the core.
STREAM_FROM = 4 << 20
LARGEST_STORE = (
    64  # bytes, which a place has to be a multiple of; longer vectors are several stores
)

_ELEMENTS = {"float32": "float", "float64": "double", "uint16": "i16"}
_ADDRESS = "tvmlayers_address"
_ADDRESS_OF = f"""
define i64 @{_ADDRESS}(ptr %pointer) {{
  %address = ptrtoint ptr %pointer to i64
  ret i64 %address
}}
"""


def stream_from(target: Target) -> int:
    """From how many bytes on a result is streamed: more than the caches of two cores hold."""
    return max(STREAM_FROM, 2 * target.l2)


def starts_at_multiple(pointer: Var, size: int) -> Expr:
    """Whether a pointer's address is a multiple of `size` bytes, a power of two.

    In a function that calls one with the attribute STREAMED, which brings in what this needs.
    """
    address = tirx.call_extern("int64", _ADDRESS, pointer)
    return tirx.bitwise_and(address, emit.i64(size - 1)).equal(emit.i64(0))


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]  # tvm has no types
def stream_results(mod: tvm.ir.IRModule, _context: tvm.transform.PassContext) -> tvm.ir.IRModule:
    """`mod` where functions with the attribute STREAMED stream all vectors of that buffer."""
    for name, function in list(mod.functions.items()):
        if isinstance(function, PrimFunc) and STREAMED in function.attrs:
            body = _streamed(function.body, str(function.attrs[STREAMED]))
            mod.update_func(name, function.with_body(body))
    return mod


def _streamed(body: Stmt, buffer_name: str) -> Stmt:
    """`body` with its vector stores streamed, and ordered before whatever follows its return."""
    used: set[tuple[str, int]] = set()

    def stream(store: tirx.BufferStore) -> Stmt:
        (index,) = store.indices
        if store.buffer.name != buffer_name or not isinstance(index, tirx.Ramp):
            return store
        dtype, lanes = str(store.buffer.dtype), int(index.lanes)
        used.add((dtype, lanes))
        place = tirx.address_of(tirx.BufferLoad(store.buffer, [index.base]))
        return tirx.Evaluate(tirx.call_extern("void", _name(dtype, lanes), place, store.value))

    def fence(ended: tirx.stmt.Return) -> Stmt:
        ordered = tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.x86.sse.sfence"))
        return tirx.SeqStmt([ordered, ended])

    body = structural_map(body, (tirx.BufferStore, stream))
    body = structural_map(body, (tirx.stmt.Return, fence))
    return with_text(body, _source(used))


def _name(dtype: str, lanes: int) -> str:
    return f"tvmlayers_stream_{dtype}x{lanes}"


def _source(used: Iterable[tuple[str, int]]) -> str:
    """LLVM's text of the streaming stores of these vectors, (dtype, lanes)."""
    return "".join([*(_store(*each) for each in sorted(used)), _ADDRESS_OF, "!0 = !{i32 1}\n"])


def _store(dtype: str, lanes: int) -> str:
    vector = f"<{lanes} x {_ELEMENTS[dtype]}>"
    size = min(LARGEST_STORE, lanes * int(tvm_ffi.dtype(dtype).bits) // 8)
    return f"""
define void @{_name(dtype, lanes)}(ptr %place, {vector} %vector) {{
  store {vector} %vector, ptr %place, align {size}, !nontemporal !0
  ret void
}}
"""
