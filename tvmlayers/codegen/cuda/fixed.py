"""A scheduled function of fixed shapes as kernels, each launched with a grid that is known.

For schedules that are not of this project's spaces: TVM's own lowering, with all that the rules of
MetaSchedule ask for, such as virtual threads and software pipelines.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Call, IRModule, Op, PrimType
from tvm.tirx import PrimFunc
from tvm_ffi import structural_map

from tvmlayers.codegen.cuda.compiler import host_target
from tvmlayers.codegen.cuda.lower import DeviceKernel, cuda_source
from tvmlayers.codegen.private import pointer_type
from tvmlayers.dtypes import is_half
from tvmlayers.errors import ConfigError
from tvmlayers.targets import CudaTarget

_LAUNCH = Op.get("tirx.call_ffi_kernel")
_DYNAMIC_SHARED = "tirx.use_dyn_shared_memory"
_UNITS = tuple(f"{unit}.{axis}" for unit in ("blockIdx", "threadIdx") for axis in "xyz")


@dataclass(frozen=True)
class Launch:
    """One kernel by its place, the places of the buffers that it gets, and its launch.

    extents: of the grid and of the block; shared: bytes of dynamic shared memory.
    """

    kernel: int
    buffers: tuple[int, ...]
    extents: tuple[int, ...]
    shared: int


@dataclass(frozen=True)
class FixedProgram:
    """CUDA C++ of all kernels, and their launches in order.

    Buffers are the function's parameters, followed by the intermediates, `scratch` bytes each.
    """

    source: str
    kernels: tuple[DeviceKernel, ...]
    launches: tuple[Launch, ...]
    scratch: tuple[int, ...]


def fixed_target(target: CudaTarget) -> Any:
    """The `tvm.target.Target` of a GPU with all numbers that MetaSchedule's rules ask for."""
    return tvm.target.Target(
        {
            "kind": "cuda",
            "arch": target.arch,
            "max_num_threads": target.threads_per_block,
            "max_threads_per_block": target.threads_per_block,
            "max_shared_memory_per_block": target.static_shared,
            "thread_warp_size": 32,
        },
        host=host_target(),
    )


def lower_fixed(scheduled: PrimFunc, target: CudaTarget) -> FixedProgram:
    """The kernels of a function on buffers whose shapes are all numbers."""
    described = fixed_target(target)
    function, scratch = _on_pointers(scheduled, described)
    with described:
        lowered = _passes()(IRModule({"main": function}))
    device = {
        name: each
        for name, each in lowered.functions.items()
        if list(each.attrs.get("tirx.kernel_launch_params") or ())
    }
    (host,) = (each for name, each in lowered.functions.items() if name not in device)
    axes = {
        name.name_hint: tuple(str(axis) for axis in each.attrs["tirx.kernel_launch_params"])
        for name, each in device.items()
    }
    kernels = tuple(
        DeviceKernel(name.name_hint, ("void*",) * len(each.params), axes[name.name_hint])
        for name, each in device.items()
    )
    launches = _launches(host, kernels)
    most = max(each.shared for each in launches)
    if most > target.static_shared:
        raise ConfigError(
            f"a block asks for {most} bytes of shared memory, where {target.name} gives "
            f"{target.static_shared} without being asked for more"
        )
    finalize = s_tir.pipeline.finalize_device_passes()
    with described:
        source = cuda_source(finalize(IRModule(device)), described)
    return FixedProgram(source, kernels, launches, scratch)


def _on_pointers(scheduled: PrimFunc, described: Any) -> tuple[PrimFunc, tuple[int, ...]]:
    """The function on bare pointers, of its intermediates too; and the bytes of these."""
    realize = scheduled.body
    block = realize.block
    inner = [each for each in block.alloc_buffers if each.scope() in ("", "global")]
    kept = [each for each in block.alloc_buffers if each.scope() not in ("", "global")]
    buffers = [*scheduled.params, *inner]
    body = block.body
    if any(is_half(str(buffer.dtype)) for buffer in buffers):
        body = structural_map(body, (tirx.For, _even))
    root = s_tir.stmt.SBlock(
        *([], [], [], block.name_hint, body, block.init),
        *(kept, block.match_buffers, block.annotations),
    )
    pointers = [
        tirx.Var(f"pointer{place}", pointer_type(buffer.dtype))
        for place, buffer in enumerate(buffers)
    ]
    declared = [
        tirx.DeclBuffer(buffer, data=pointer)
        for buffer, pointer in zip(buffers, pointers, strict=True)
    ]
    ended = tirx.stmt.Return(tirx.const(0, "int32"))
    body = tirx.SeqStmt([*declared, s_tir.stmt.SBlockRealize([], True, root), ended])
    function = PrimFunc(pointers, body, ret_type=PrimType("int32"))
    attributes = {"global_symbol": "main", "tirx.noalias": True, "s_tir": True}
    return function.with_attr({**attributes, "target": described}), tuple(map(_bytes, inner))


def _even(loop: tirx.For) -> Any:
    """The loop, unrolled where it is a vector of odd length: TVM generates none of halves."""
    if loop.kind != tirx.ForKind.VECTORIZED or int(loop.extent) % 2 == 0:
        return loop
    unrolled = tirx.ForKind.UNROLLED
    return tirx.For(loop.loop_var, loop.min, loop.extent, unrolled, loop.body, None, {})


def _bytes(buffer: Any) -> int:
    itemsize = tvm_ffi.dtype(str(buffer.dtype)).bits // 8
    return prod(int(extent) for extent in buffer.shape) * int(itemsize)


def _launches(host: PrimFunc, kernels: tuple[DeviceKernel, ...]) -> tuple[Launch, ...]:
    """The launches that the host's function makes, one after the other."""
    places = {pointer.name: place for place, pointer in enumerate(host.params)}
    declared: dict[Any, int] = {}
    made: list[Launch] = []
    by_name = {kernel.name: place for place, kernel in enumerate(kernels)}

    def declare(each: Any) -> Any:
        declared[each.buffer] = places[each.data.name]
        return each

    def launch(call: Call) -> Any:
        if not call.op.same_as(_LAUNCH):
            return call
        name, *values = call.args
        kernel = kernels[by_name[name.value]]
        count = len(kernel.parameters)
        extents = dict(zip(kernel.axes, map(int, values[count:]), strict=True))
        unknown = set(extents) - {*_UNITS, _DYNAMIC_SHARED}
        if unknown:
            raise ConfigError(f"kernel {kernel.name} asks for unknown launch parameters {unknown}")
        buffers = tuple(declared[each.args[0]] for each in values[:count])
        sizes = tuple(extents.get(axis, 1) for axis in _UNITS)
        made.append(Launch(by_name[kernel.name], buffers, sizes, extents.get(_DYNAMIC_SHARED, 0)))
        return call

    structural_map(host.body, (tirx.DeclBuffer, declare))
    structural_map(host.body, (Call, launch))
    return tuple(made)


def _passes() -> tvm.transform.Pass:
    """TVM's default pipeline as far as kernels are functions of their own.

    Without StorageRewrite: it has float32 sums reuse an allocation of float16, and what reads those
    by pointer is then refused ("element type must match the source buffer").
    MergeSharedMemoryAllocations shares the memory of a block all the same.
    """
    blocks, plain = s_tir.transform, tirx.transform
    return tvm.transform.Sequential(
        [
            blocks.CanonicalizeLoop(),
            blocks.LowerCrossThreadReduction(),
            blocks.LowerInitBlock(),
            blocks.PlanAndUpdateBufferAllocationLocation(),
            blocks.ConvertBlocksToOpaque(),
            blocks.LiftThreadBinding(),
            blocks.ManifestSharedMemoryLocalStage(),
            blocks.CompactBufferAllocation(),
            blocks.LowerAutoCopy(),
            blocks.UnifyThreadBinding(),
            blocks.LowerMatchBuffer(),
            blocks.StmtSimplify(),
            blocks.InjectPermutedLayout(),
            blocks.InjectSoftwarePipeline(),
            blocks.TransformMmaBufferLayout(),
            blocks.LowerOpaqueBlock(),
            plain.FlattenBuffer(),
            plain.NarrowDataType(32),
            blocks.LoopPartition(),
            plain.VectorizeLoop(True),
            blocks.InjectVirtualThread(),
            blocks.InjectDoubleBuffer(),
            blocks.HoistIfThenElse(),
            plain.UnrollLoop(),
            blocks.RenormalizeSplitPattern(),
            plain.StmtSimplify(),
            plain.RemoveNoOp(),
            blocks.RewriteUnsafeSelect(),
            plain.CommonSubexprElim(),
            plain.VerifyMemory(),
            plain.AnnotateEntryFunc(),
            blocks.ThreadSync("shared"),
            blocks.ThreadSync("shared.dyn"),
            blocks.ThreadSync("warp"),
            blocks.InferFragment(),
            blocks.LowerThreadAllreduce(),
            blocks.InjectPTXAsyncCopy(),
            blocks.MergeSharedMemoryAllocations(),
            plain.SplitHostDevice(),
        ]
    )
