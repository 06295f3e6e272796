"""TVM's lowering for CPUs: the passes that these kernels need, and two of our own.

The standard pipeline also holds passes for accelerators, and two (HoistIfThenElse and
RenormalizeSplitPattern) that take seconds over a long activation and do nothing for it.
Most passes look at one function at a time: those run on threads while other functions are made.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir import GlobalVar, IRModule, StringImm
from tvm.tirx import PrimFunc, Stmt
from tvm.tirx.compilation_pipeline import register_tir_pipeline
from tvm_ffi import structural_map

from tvmlayers.build.private import APART, PRIVATE, WRITTEN
from tvmlayers.build.streaming import stream_results
from tvmlayers.targets import Target, to_tvm

NAME = "tvmlayers"
# The passes let go of Python's lock; a second thread is for the end, when all has been made.
THREADS = 2
AT_ONCE = 3  # functions


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]  # tvm has no types
def keep_tiles_on_stack(mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
    """`mod` where local buffers of fixed size are stack slots, which LLVM turns into registers.

    TVM's own lowering would take anything of 1024 bytes and more from a workspace pool. Larger and
    symbolic buffers still come from there, for which a function needs to know its device.
    What is to stay apart is put into a function of its own, which TVM marks as one not to inline.
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
            if APART in function.attrs:
                named = StringImm(f"{name.name_hint}_apart")
                body = tirx.AttrStmt(zero, "compute_scope", named, body)
            body = tirx.AttrStmt(zero, "device_type", cpu, body)
            body = tirx.AttrStmt(zero, "device_id", zero, body)
        mod.update_func(name, function.with_body(body))
    return mod


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
            plain.StmtSimplify(),
            plain.RemoveNoOp(),
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


class Lowering:
    """The functions of one module on their way through the passes that take each by itself.

    A context: its threads end with it.
    """

    def __init__(self, target: Target) -> None:
        bound = to_tvm(target)
        passes = [tirx.transform.BindTarget(bound.with_host(bound)), _each()]
        self._passes = tvm.transform.Sequential(passes)
        self._pool = ThreadPoolExecutor(THREADS)
        self._parts: list[Future[IRModule]] = []

    def __enter__(self) -> "Lowering":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, functions: Mapping[GlobalVar, PrimFunc]) -> None:
        """Begin with these; the caller may go on."""
        every = list(functions.items())
        for first in range(0, len(every), AT_ONCE):
            part = IRModule(dict(every[first : first + AT_ONCE]))
            self._parts.append(self._pool.submit(self._passes, part))

    def module(self) -> IRModule:
        """All of them, in the order in which they came."""
        whole = IRModule({})
        for part in self._parts:
            whole.update(part.result())
        return whole


def machine_code(module: IRModule, target: Target) -> Any:
    """A module that came through `Lowering` as TVM's executable for `target`."""
    return tvm.compile(module, target=to_tvm(target), tir_pipeline=NAME)
