"""From a scheduled expression to a private function on raw pointers.

A PrimFunc with buffer arguments checks them at every call and assumes that each starts at a
multiple of 64 bytes. Kernels are called from compiled code that has checked the caller's tensors
once, on addresses that may be any multiple of the element, so they take bare pointers, which carry
no such assumption, and sizes. Four things that tensor expressions do not say are put in on the way:
where a result of a tile is stored, what a gradient updates in place, the check and prefetch of a
lookup, and in which half a tensor of float32 is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import tvm_ffi
from tvm import te, tirx
from tvm.ir import Expr, PointerType, PrimType, StringImm, TensorLoad
from tvm.tirx import Buffer, PrimFunc, Stmt, Var
from tvm_ffi import structural_map

from tvmlayers.expr.expression import CheckedRows, Expression, Place
from tvmlayers.expr.optimizers import Rule
from tvmlayers.expr.stored import as_float, as_kept, read_as
from tvmlayers.expr.take import is_outside, nearest_row
from tvmlayers.spaces.choices import BLOCK_LOOP, PANEL_READS, PREFETCH, TILE_LOOP

PRIVATE = "tvmlayers.private"  # attribute of every private function
WRITTEN = "tvmlayers.written"  # of those that were written out, not scheduled
NOINLINE = "tvmlayers.noinline"  # of those that LLVM is not to inline
STREAMED = "tvmlayers.streamed"  # names the tensor whose vectors are stored past the caches
CACHE_LINE = 64
PANEL_LOOP, STRIP_LOOP = "p", "c"  # the loops over panels and their strips in `expr.dense`
MOST_LINES = 8  # of one row; past that the hardware's own prefetcher has seen the stream


def pointer_type(dtype: str) -> PointerType:
    """The type of a pointer to elements of `dtype`."""
    return PointerType(PrimType(dtype))


def with_text(body: Stmt, text: str) -> Stmt:
    """`body`, and functions that it calls as LLVM's own text; they vanish where they are called."""
    return tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", StringImm(text), body)


def private_function(
    expression: Expression,
    scheduled: PrimFunc,
    *,
    prefetch: int = 0,
    prefetch_stride: int = 1,
    in_place: bool = False,
    streamed: str | None = None,
    kept: Mapping[str, str] | None = None,
    rule: Rule | None = None,
) -> PrimFunc:
    """The scheduled expression as `int32 f(pointers of its tensors, [flag pointer], sizes)`.

    prefetch: how many rows ahead a lookup asks for a row; 0 for not at all. prefetch_stride: for
    each of its cache lines, or for every second one.
    in_place: the result may be one of the inputs.
    streamed: the tensor whose vectors are stored past the caches.
    kept: tensors of float32 by name, and the half that each is kept in: its numbers are widened
    where they are read, and rounded where they are stored.
    rule: the result is a gradient, which updates what lies where it would be stored; pointers to
    its states, which lie alike, and to the rule's numbers follow.
    A lookup that reports indices outside the table sets the int32 behind the flag pointer to 1.
    """
    body = scheduled.body
    buffers = list(scheduled.params)[: len(expression.tensors)]
    for i, buffer in enumerate(buffers):
        if buffer.name in expression.places:
            body, buffers[i] = _placed(expression.places[buffer.name], body, buffer)
        if kept and buffer.name in kept:
            body, buffers[i] = _kept(kept[buffer.name], body, buffers[i])
    pointers = [Var(f"{buffer.name}_ptr", pointer_type(buffer.dtype)) for buffer in buffers]
    declared: list[Stmt] = [
        tirx.DeclBuffer(buffer, data=pointer)
        for buffer, pointer in zip(buffers, pointers, strict=True)
    ]
    if rule is not None:
        body, states = _updated(rule, body, buffers[-1])
        pointers += [Var(f"{buffer.name}_ptr", pointer_type(buffer.dtype)) for buffer in states]
        declared += [
            tirx.DeclBuffer(buffer, data=pointer)
            for buffer, pointer in zip(states, pointers[len(buffers) :], strict=True)
        ]
    body = _prefetch_panels(buffers, body, expression.depth)
    if expression.checked is not None:
        flag = tirx.decl_buffer((1,), "int32", name="flag", layout=None)
        ahead = prefetch, prefetch_stride
        body = _guard_rows(expression, expression.checked, buffers, body, flag, *ahead)
        if expression.checked.flag:
            pointers.append(Var("flag_ptr", pointer_type("int32")))
            declared.append(tirx.DeclBuffer(flag, data=pointers[-1]))
    body = tirx.SeqStmt([*declared, body, tirx.stmt.Return(tirx.const(0, "int32"))])
    function = PrimFunc([*pointers, *expression.sizes], body, ret_type=PrimType("int32"))
    attributes = {"tirx.noalias": not in_place, "s_tir": True, PRIVATE: True}
    return function.with_attr(attributes | ({STREAMED: streamed} if streamed else {}))


def _placed(place: Place, body: Stmt, computed: Buffer) -> tuple[Stmt, Buffer]:
    """`body` with all that reads or writes `computed` sent to its place; and the buffer there."""
    stored = tirx.decl_buffer(place.shape, computed.dtype, name=computed.name, layout=None)

    def read(load: TensorLoad) -> Expr:
        if not load.source.same_as(computed):
            return load
        return tirx.BufferLoad(stored, place.at(list(load.indices)))

    def write(store: tirx.BufferStore) -> Stmt:
        if not store.buffer.same_as(computed):
            return store
        return tirx.BufferStore(stored, store.value, place.at(list(store.indices)))

    body = structural_map(body, (TensorLoad, read))
    return structural_map(body, (tirx.BufferStore, write)), stored


def _kept(half: str, body: Stmt, wide: Buffer) -> tuple[Stmt, Buffer]:
    """`body` with `wide` kept in a half; and the buffer of it.

    What is stored is not read again, or it would be rounded more than once.
    """
    held = tirx.decl_buffer(wide.shape, read_as(half), name=wide.name, layout=None)
    seen: set[str] = set()

    def read(load: TensorLoad) -> Expr:
        if not load.source.same_as(wide):
            return load
        seen.add("read")
        return as_float(tirx.BufferLoad(held, list(load.indices)), half)

    def write(store: tirx.BufferStore) -> Stmt:
        if not store.buffer.same_as(wide):
            return store
        seen.add("stored")
        return tirx.BufferStore(held, as_kept(store.value, half), list(store.indices))

    body = structural_map(body, (TensorLoad, read))
    body = structural_map(body, (tirx.BufferStore, write))
    assert len(seen) < 2, f"{wide.name} is stored and read again"
    return body, held


def _updated(rule: Rule, body: Stmt, weight: Buffer) -> tuple[Stmt, list[Buffer]]:
    """`body` with updates of `weight` where it stored a gradient there; and the buffers of the
    states and of the rule's numbers."""
    dtype = str(weight.dtype)
    states = [
        tirx.decl_buffer(weight.shape, dtype, name=f"state{i}", layout=None)
        for i in range(rule.slots)
    ]
    numbers = tirx.decl_buffer((max(rule.count, 1),), dtype, name="numbers", layout=None)
    shared = [tirx.BufferLoad(numbers, [tirx.const(i, "int32")]) for i in range(rule.count)]

    def update(store: tirx.BufferStore) -> Stmt:
        if not store.buffer.same_as(weight):
            return store
        at, gradient = list(store.indices), store.value
        old_weight = tirx.BufferLoad(weight, at)
        old = [tirx.BufferLoad(state, at) for state in states]
        moved = rule.state(shared, old_weight, gradient, old)
        kept = [
            tirx.BufferStore(state, value, at)
            for state, value in zip(states[rule.kept :], moved, strict=True)
        ]
        # What was stored is loaded again: the compiler knows that it is in a register.
        new = rule.weight(shared, old_weight, gradient, old)
        stored = tirx.BufferStore(weight, new, at)
        return tirx.SeqStmt([*kept, stored]) if kept else stored

    return structural_map(body, (tirx.BufferStore, update)), [*states, numbers]


def _guard_rows(
    expression: Expression,
    checked: CheckedRows,
    buffers: list[Buffer],
    body: Stmt,
    flag: Buffer,
    prefetch: int,
    stride: int,
) -> Stmt:
    """`body` with a check and a prefetch beside every store of a row number."""
    by_name = {
        tensor.op.name: buffer for tensor, buffer in zip(expression.tensors, buffers, strict=True)
    }
    indices, table = by_name["indices"], by_name["table"]

    def guard(store: tirx.BufferStore) -> Stmt:
        if not store.buffer.name.startswith(checked.stage):
            return store
        (i,) = store.indices
        stages: list[Stmt] = []
        if prefetch:
            ahead = te.min(i + prefetch, checked.count - 1)
            row = nearest_row(indices[ahead], checked.rows)
            stages += _prefetch_row(table, row, checked.columns, stride)
        if checked.flag:
            index = tirx.Cast("int64", indices[i])
            mark = tirx.BufferStore(flag, tirx.const(1, "int32"), [0])
            stages.append(tirx.IfThenElse(is_outside(index, checked.rows), mark, None))
        return tirx.SeqStmt([*stages, store]) if stages else store

    return structural_map(body, (tirx.BufferStore, guard))


def _prefetch_panels(buffers: list[Buffer], body: Stmt, depth: int) -> Stmt:
    """`body` where loops over k that the space marked ask for the packed weight ahead of its use.

    The hardware's prefetcher stops at the end of each page; a panel goes on. What is asked for
    beyond the weight's end is never read.
    """
    around: dict[str, Var] = {}

    def ask(loop: tirx.For) -> Stmt:
        around[loop.loop_var.name] = loop.loop_var
        for role in (TILE_LOOP, BLOCK_LOOP):
            if role in loop.annotations:
                around[role] = loop.loop_var
        rest = {key: loop.annotations[key] for key in loop.annotations if key not in PANEL_READS}
        ahead: list[Stmt] = []
        if PREFETCH in loop.annotations:
            reads = [int(loop.annotations[key]) for key in PANEL_READS[2:]]
            ahead = _panel_ahead(buffers[1], depth, around, loop, *reads)
        inner = tirx.SeqStmt([*ahead, loop.body]) if ahead else loop.body
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, inner, None, rest)

    return structural_map(body, (tirx.For, ask), order="pre")


def _panel_ahead(
    weight: Buffer,
    depth: int,
    around: dict[str, Var],
    loop: tirx.For,
    steps: int,
    next_lines: int,
    k_block: int,
    streams: int,
    columns: int,
    stretch: int,
) -> list[Stmt]:
    """Prefetches for one iteration of `loop` over k, or over a block of it.

    Of the rows that are read `steps` later; and of next_lines cache lines for each step that lie in
    the block after this one, a stretch of it for each tile of rows. depth: steps of k in an
    element.
    """
    width = int(weight.shape[2])
    unroll = stretch // int(loop.extent)
    line = CACHE_LINE // (tvm_ffi.dtype(str(weight.dtype)).bits // 8)
    begins = range(0, streams * stretch, stretch)
    panel, first = around[PANEL_LOOP], around[STRIP_LOOP] * columns
    block = around[BLOCK_LOOP] * k_block if k_block else 0
    made: list[Stmt] = []
    if steps:
        reads = product(range(0, unroll, depth), begins, range(0, columns, line))
        for step, begin, column in reads:
            row = te.indexdiv(block + begin + loop.loop_var * unroll + (step + steps), depth)
            made.append(_ask_for(weight[panel, row, first + column]))
    if k_block and next_lines:
        # The lines of the next block, counted on from its first row.
        tile = te.min(around[TILE_LOOP], width // line // next_lines - 1)
        following = te.indexdiv(block + k_block, depth)
        for ahead in range(unroll * next_lines // depth):
            at = te.indexdiv(tile * k_block + loop.loop_var * unroll, depth) * next_lines + ahead
            made.append(_ask_for(weight[panel, following, at * line]))
    return made


def _prefetch_row(table: Buffer, row: Expr, columns: int, stride: int) -> list[Stmt]:
    """Statements that ask for the first cache lines of a row of `table`, to be read once."""
    itemsize = tvm_ffi.dtype(str(table.dtype)).bits // 8
    lines = min(-(-columns * itemsize // CACHE_LINE), MOST_LINES)
    return [
        _ask_for(table[row, line * (CACHE_LINE // itemsize)]) for line in range(0, lines, stride)
    ]


def _ask_for(element: Expr) -> Stmt:
    return tirx.Evaluate(prefetch_line(element))


def prefetch_line(element: Expr, *, write: bool = False) -> Expr:
    """Ask for the cache line of a buffer's element, to be read or written, kept in all caches."""
    hints = [tirx.const(n, "int32") for n in (int(write), 3, 1)]  # read or write, keep, data
    return tirx.call_llvm_intrin("void", "llvm.prefetch", tirx.address_of(element), *hints)
