"""TVM's lowering for CPUs: the passes that these kernels need, and one of our own.

The standard pipeline also holds passes for accelerators, and two (HoistIfThenElse and
RenormalizeSplitPattern) that take seconds over a long activation and do nothing for it.
"""

import tvm
from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm.tirx import PrimFunc, Stmt
from tvm.tirx.compilation_pipeline import register_tir_pipeline
from tvm_ffi import structural_map

from tvmlayers.build.private import PRIVATE, WRITTEN

NAME = "tvmlayers"


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]  # tvm has no types
def keep_tiles_on_stack(mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
    """`mod` where local buffers of fixed size are stack slots, which LLVM turns into registers.

    TVM's own lowering would take anything of 1024 bytes and more from a workspace pool. Larger and
    symbolic buffers still come from there, for which a function needs to know its device.
    """
    zero, cpu = tirx.const(0, "int32"), tirx.const(1, "int32")

    def keep(alloc: tirx.AllocBuffer) -> Stmt:
        fixed = all(isinstance(extent, int | tirx.IntImm) for extent in alloc.buffer.shape)
        if alloc.buffer.scope() != "local" or not fixed:
            return alloc
        return tirx.AllocBuffer(
            alloc.buffer, annotations={"disable_lower_builtin": tirx.const(1, "int32")}
        )

    for name, function in list(mod.functions.items()):
        if not isinstance(function, PrimFunc):
            continue
        body = structural_map(function.body, (tirx.AllocBuffer, keep))
        if PRIVATE in function.attrs:
            body = tirx.AttrStmt(zero, "device_type", cpu, body)
            body = tirx.AttrStmt(zero, "device_id", zero, body)
        mod.update_func(name, function.with_body(body))
    return mod


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]  # tvm has no types
def compact_tiles(mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
    """`mod` where buffers that a schedule moved into loops hold no more than these need.

    What was written out has none such, and looking for them takes a tenth of all compile time.
    """
    scheduled = {
        name: function
        for name, function in mod.functions.items()
        if not isinstance(function, PrimFunc) or WRITTEN not in function.attrs
    }
    compacted = s_tir.transform.CompactBufferAllocation()(IRModule(scheduled))
    mod.update(compacted)
    return mod


def _factory() -> tuple[tvm.transform.Pass, object, object]:
    _, finalize_host, finalize_device = s_tir.pipeline.default_s_tir_pipeline()
    blocks, plain = s_tir.transform, tirx.transform
    passes = [
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
        plain.StmtSimplify(),
        plain.RemoveNoOp(),
        blocks.RewriteUnsafeSelect(),
        plain.CommonSubexprElim(),
        plain.AnnotateEntryFunc(),
        plain.SplitHostDevice(),
        plain.MakePackedAPI(),
        keep_tiles_on_stack,
    ]
    return tvm.transform.Sequential(passes), finalize_host, finalize_device


register_tir_pipeline(NAME, _factory)
