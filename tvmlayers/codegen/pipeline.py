"""TVM's lowering for CPUs: the passes that these kernels need, and two of our own.

The standard pipeline also holds passes for accelerators, and two (HoistIfThenElse and
RenormalizeSplitPattern) that take seconds over a long activation and do nothing for it.
Most passes look at one function at a time: `modules` runs those on threads.
"""

from functools import partial
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir import IRModule, StringImm
from tvm.tirx import PrimFunc, Stmt
from tvm.tirx.compilation_pipeline import register_tir_pipeline
from tvm_ffi import structural_map

from tvmlayers.codegen.partial_sums import sum_in_blocks
from tvmlayers.codegen.private import NOINLINE, PRIVATE, WRITTEN
from tvmlayers.codegen.streaming import stream_results
from tvmlayers.spaces.choices import OUTLINED
from tvmlayers.targets import Target, to_tvm

NAME = "tvmlayers"


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]  # tvm has no types
def keep_tiles_on_stack(mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
    """`mod` where local buffers of fixed size are stack slots, which LLVM turns into registers.

    TVM's own lowering would take anything of 1024 bytes and more from a workspace pool. Larger and
    symbolic buffers still come from there, for which a function needs to know its device.
    A function or loop that is not to be inlined is put into a function of its own, which TVM marks
    as noinline.
    """
    zero, cpu = tirx.const(0, "int32"), tirx.const(1, "int32")

    def keep(alloc: tirx.AllocBuffer) -> Stmt:
        fixed = all(isinstance(extent, int | tirx.IntImm) for extent in alloc.buffer.shape)
        if alloc.buffer.scope() != "local" or not fixed:
            return alloc
        kept = {**alloc.annotations, "disable_lower_builtin": tirx.const(1, "int32")}
        return tirx.AllocBuffer(alloc.buffer, annotations=kept)

    for name, function in list(mod.functions.items()):
        if not isinstance(function, PrimFunc):
            continue
        outline = partial(_outlined, f"{name.name_hint}_outlined", function)
        body = structural_map(function.body, ((tirx.AllocBuffer, keep), (tirx.For, outline)))
        if PRIVATE in function.attrs:
            if NOINLINE in function.attrs:
                named = StringImm(f"{name.name_hint}_noinline")
                body = tirx.AttrStmt(zero, "compute_scope", named, body)
            body = tirx.AttrStmt(zero, "device_type", cpu, body)
            body = tirx.AttrStmt(zero, "device_id", zero, body)
        mod.update_func(name, function.with_body(body))
    return mod


def _declared(function: PrimFunc) -> list[tirx.DeclBuffer]:
    """Where it says what the pointers point at that it was given."""
    found: list[tirx.DeclBuffer] = []

    def note(declared: tirx.DeclBuffer) -> tirx.DeclBuffer:
        if any(declared.data.same_as(param) for param in function.params):
            found.append(declared)
        return declared

    structural_map(function.body, (tirx.DeclBuffer, note))
    return found


def _outlined(name: str, function: PrimFunc, loop: tirx.For) -> Stmt:
    """A loop of `function` that is to be outlined as a function of its own; others as they are.

    It is handed the pointers and declares them itself: TVM marks functions with pointers as not to
    be inlined, and not those with buffers. TVM notes for LLVM which function an instruction is of
    statement by statement: without one after it, what follows would be taken for this one's.
    """
    if OUTLINED not in loop.annotations:
        return loop
    rest = {key: loop.annotations[key] for key in loop.annotations if key != OUTLINED}
    plain = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, loop.body, None, rest)
    used = {each.name for each in tirx.analysis.undefined_vars(plain)}
    again = [each for each in _declared(function) if each.buffer.name in used]
    body = tirx.SeqStmt([*again, plain]) if again else plain
    made = tirx.AttrStmt(tirx.const(0, "int32"), "compute_scope", StringImm(name), body)
    return tirx.SeqStmt([made, tirx.Evaluate(tirx.const(1, "int32"))])


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]  # tvm has no types
def compact_tiles(mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
    """`mod` where buffers that a schedule moved into loops hold no more than these need.

    What was written out has none such. `is_strict` would prove for each that it does not grow.
    """
    scheduled = {
        name: function
        for name, function in mod.functions.items()
        if not isinstance(function, PrimFunc) or WRITTEN not in function.attrs
    }
    compacted = s_tir.transform.CompactBufferAllocation(is_strict=False)(IRModule(scheduled))
    mod.update(compacted)
    return mod


def _each() -> tvm.transform.Pass:
    """The passes that need to see one function at a time."""
    blocks, plain = s_tir.transform, tirx.transform
    return tvm.transform.Sequential(
        [
            blocks.CanonicalizeLoop(),
            blocks.LowerInitBlock(),
            blocks.PlanAndUpdateBufferAllocationLocation(),
            blocks.ConvertBlocksToOpaque(),
            compact_tiles,
            blocks.LowerMatchBuffer(),
            plain.StmtSimplify(),
            blocks.LowerOpaqueBlock(),
            plain.FlattenBuffer(),
            plain.NarrowDataType(32),
            plain.VectorizeLoop(True),
            plain.StorageRewrite(),
            plain.UnrollLoop(),
            sum_in_blocks,
            plain.ConvertSSA(),
            plain.StmtSimplify(),
            stream_results,
            blocks.RewriteUnsafeSelect(),
            plain.CommonSubexprElim(),
        ]
    )


def _together() -> tuple[tvm.transform.Pass, object, object]:
    """The passes that need to see a function with those that it calls, and TVM's for its end."""
    _, finalize_host, finalize_device = s_tir.pipeline.default_s_tir_pipeline()
    passes = [
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
        keep_tiles_on_stack,
    ]
    return tvm.transform.Sequential(passes), finalize_host, finalize_device


register_tir_pipeline(NAME, _together)


def each_function(target: Target) -> tvm.transform.Pass:
    """The passes for functions by themselves, in modules of any number of them."""
    bound = to_tvm(target)
    return tvm.transform.Sequential([tirx.transform.BindTarget(bound.with_host(bound)), _each()])


def machine_code(module: IRModule, target: Target) -> Any:
    """A module that came through `each_function` as TVM's executable for `target`."""
    return tvm.compile(module, target=to_tvm(target), tir_pipeline=NAME)
