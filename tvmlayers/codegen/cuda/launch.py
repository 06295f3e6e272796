"""Words for writing functions that launch kernels: a scheduled expression put in place, guards.

A launching function is private, as the CPU's drivers are: it takes bare pointers, sizes and the
device to launch on, which also keeps the driver's error. Its loops over `blockIdx` and `threadIdx`
become kernels.
"""

from collections.abc import Callable, Mapping, Sequence

from tvm import s_tir, te, tirx
from tvm.ir import Expr, TensorLoad
from tvm.tirx import Buffer, PrimFunc, Stmt, Var
from tvm.tirx.script.builder import ir as T
from tvm_ffi import structural_map

from tvmlayers.codegen import emit
from tvmlayers.expr.expression import Expression, Place
from tvmlayers.expr.take import is_outside

DEVICE = "device"  # the last parameter of every launching function


def scheduled(expression: Expression, schedule: Callable[[s_tir.Schedule], None]) -> PrimFunc:
    """`expression` as `schedule` maps it onto blocks and threads."""
    function = te.create_prim_func([*expression.tensors, *expression.sizes])
    sch = s_tir.Schedule(function, debug_mask="none")
    schedule(sch)
    return sch.mod["main"]


def put(
    expression: Expression,
    function: PrimFunc,
    pointers: Sequence[Expr],
    sizes: Sequence[Expr],
    flag: Expr | None = None,
    *,
    guarded: bool = True,
) -> None:
    """Write the body of a scheduled expression here, on these pointers and sizes.

    guarded: a store whose place lies outside of its tensor is left out. flag: where an index
    outside the table of a lookup is reported.
    """
    count = len(expression.tensors)
    buffers, given = list(function.params)[:count], list(function.params)[count:]
    body = function.body
    for i, buffer in enumerate(buffers):
        if buffer.name in expression.places:
            body, buffers[i] = _placed(expression.places[buffer.name], body, buffer, guarded)
    if expression.checked is not None and flag is not None:
        indices = next(b for b in buffers if b.name == expression.checked.indices.op.name)
        body = _reported(body, expression, indices, flag)
    known: Mapping[str, Expr] = {var.name: value for var, value in zip(given, sizes, strict=True)}
    pointers = [p if isinstance(p, Var) else emit.bound(p) for p in pointers]
    declared = [
        tirx.DeclBuffer(buffer, data=pointer)
        for buffer, pointer in zip(buffers, pointers, strict=True)
    ]
    whole = tirx.SeqStmt([*declared, body])
    T.add_to_parent(
        structural_map(whole, (Var, lambda var: known[var.name] if var in given else var))
    )


def _placed(place: Place, body: Stmt, computed: Buffer, guarded: bool) -> tuple[Stmt, Buffer]:
    """`body` with all stores to `computed` sent to their place, those outside of it left out."""
    stored = tirx.decl_buffer(place.shape, computed.dtype, name=computed.name, layout=None)

    def write(store: tirx.BufferStore) -> Stmt:
        if not store.buffer.same_as(computed):
            return store
        at = place.at(list(store.indices))
        if not guarded:
            return tirx.BufferStore(stored, store.value, at)
        inside = tirx.all(*(i < extent for i, extent in zip(at, place.shape, strict=True)))
        return tirx.IfThenElse(inside, tirx.BufferStore(stored, store.value, at), None)

    return structural_map(body, (tirx.BufferStore, write)), stored


def _reported(body: Stmt, expression: Expression, indices: Buffer, flag: Expr) -> Stmt:
    """`body` with a check beside every store of a row number."""
    checked = expression.checked
    assert checked is not None
    marks = emit.view(flag)

    def guard(store: tirx.BufferStore) -> Stmt:
        if not store.buffer.name.startswith(checked.stage):
            return store
        reads: list[Expr] = []

        def remember(load: TensorLoad) -> Expr:
            if load.source.same_as(indices):
                reads.append(load)
            return load

        structural_map(store.value, (TensorLoad, remember))
        mark = tirx.BufferStore(marks, tirx.const(1, "int32"), [emit.i64(0)])
        outside = is_outside(tirx.Cast("int64", reads[0]), checked.rows)
        return tirx.SeqStmt([tirx.IfThenElse(outside, mark, None), store])

    return structural_map(body, (tirx.BufferStore, guard))
