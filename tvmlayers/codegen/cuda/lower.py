"""TVM's lowering for CUDA: from functions with thread loops to CUDA source, host code and stubs.

The host code does not go through TVM's CUDA runtime, which wants one release of NVIDIA's runtime
library: kernels are launched by C stubs through the launch function that the caller hands in, so
that an artefact needs the driver and nothing else.
"""

from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Call, GlobalVar, IRModule, Op, PointerType, PrimType
from tvm.tirx import PrimFunc
from tvm_ffi import structural_map

from tvmlayers.codegen.cuda.launch import DEVICE
from tvmlayers.codegen.private import PRIVATE
from tvmlayers.errors import ConfigError
from tvmlayers.targets import CudaTarget

_LAUNCH = Op.get("tirx.call_ffi_kernel")
_C_TYPES = {"int32": "int32_t", "int64": "int64_t", "float32": "float", "float64": "double"}


@dataclass(frozen=True)
class DeviceKernel:
    """One kernel: the C types of its parameters, and which axes its launch gives, in order."""

    name: str
    parameters: tuple[str, ...]
    axes: tuple[str, ...]

    @property
    def stub(self) -> str:
        """The symbol of the C function that launches it."""
        return f"tvmlayers_launch_{self.name}"


@dataclass(frozen=True)
class LoweredModule:
    """host: TVM's module of the host code; source: CUDA C++ of all kernels."""

    host: Any
    source: str
    kernels: tuple[DeviceKernel, ...]


def lower(module: IRModule, target: CudaTarget, host: dict[str, Any]) -> LoweredModule:
    """Host code and CUDA source of a module whose private functions launch kernels.

    host: TVM's description of the CPU that launches.
    """
    described = to_tvm(target, host)
    for name, function in list(module.functions.items()):
        module.update_func(name, function.with_attr("target", described))
    lowered = _passes()(module)
    device: dict[GlobalVar, PrimFunc] = {}
    hosted: dict[GlobalVar, PrimFunc] = {}
    kernels: dict[str, DeviceKernel] = {}
    for name, function in lowered.functions.items():
        if list(function.attrs.get("tirx.kernel_launch_params") or ()):
            device[name] = function
            kernels[name.name_hint] = _described(name.name_hint, function)
        else:
            hosted[name] = function
    names = {function.name_hint: function for function in hosted}
    host_target = tvm.target.Target(host, host=host)
    module = IRModule(
        {name: _hosted(function, names, kernels, host_target) for name, function in hosted.items()}
    )
    # LLVM's code generator has no bfloat16; all that the host does with it is to pass pointers on.
    module = tirx.transform.BF16StorageLegalize()(module)
    module = tirx.transform.MakePackedAPI()(module)
    _, finalize_host, finalize_device = s_tir.pipeline.default_s_tir_pipeline()
    built = tvm_ffi.get_global_func(f"target.build.{host['kind']}")(
        finalize_host()(module), host_target
    )
    source = cuda_source(finalize_device()(IRModule(device)), described)
    return LoweredModule(built, source, tuple(kernels.values()))


def to_tvm(target: CudaTarget, host: dict[str, Any]) -> Any:
    """The `tvm.target.Target` of a GPU and of the CPU beside it."""
    return tvm.target.Target(
        {
            "kind": "cuda",
            "arch": target.arch,
            "max_num_threads": target.threads_per_block,
            "thread_warp_size": 32,
            "max_shared_memory_per_block": target.static_shared,
        },
        host=host,
    )


def _passes() -> tvm.transform.Pass:
    blocks, plain = s_tir.transform, tirx.transform
    return tvm.transform.Sequential(
        [
            blocks.CanonicalizeLoop(),
            blocks.LowerCrossThreadReduction(),
            blocks.LowerInitBlock(),
            blocks.PlanAndUpdateBufferAllocationLocation(),
            blocks.ConvertBlocksToOpaque(),
            blocks.LiftThreadBinding(),
            blocks.CompactBufferAllocation(),
            blocks.UnifyThreadBinding(),
            blocks.LowerMatchBuffer(),
            plain.StmtSimplify(),
            blocks.LowerOpaqueBlock(),
            plain.FlattenBuffer(),
            plain.NarrowDataType(32),
            plain.VectorizeLoop(True),
            plain.StorageRewrite(),
            plain.StmtSimplify(),
            plain.RemoveNoOp(),
            blocks.RewriteUnsafeSelect(),
            plain.SplitHostDevice(),
            # After the split: branches of the host around a launch are none of a barrier's.
            blocks.ThreadSync("shared"),
            blocks.LowerThreadAllreduce(),
        ]
    )


def _described(name: str, function: PrimFunc) -> DeviceKernel:
    types = []
    for parameter in function.params:
        if isinstance(parameter.ty, PointerType):
            types.append("void*")
        else:
            types.append(_C_TYPES[str(parameter.ty.dtype)])
    axes = tuple(str(axis) for axis in function.attrs["tirx.kernel_launch_params"])
    unknown = [a for a in axes if not a.startswith(("blockIdx.", "threadIdx."))]
    if unknown:
        raise ConfigError(f"kernel {name} asks for launch parameters {unknown}, which no stub has")
    return DeviceKernel(name, tuple(types), axes)


def _hosted(
    function: PrimFunc,
    private: dict[str, GlobalVar],
    kernels: dict[str, DeviceKernel],
    target: Any,
) -> PrimFunc:
    """A host function whose launches are calls of C stubs, which leave errors with the device."""
    device = next((p for p in function.params if p.name == DEVICE), None)

    def launch(call: Call) -> Any:
        if not call.op.same_as(_LAUNCH):
            return call
        name, *values = call.args
        if name.value in private:
            return Call(private[name.value], values, ret_ty=call.ty)
        kernel = kernels[name.value]
        count = len(kernel.parameters)
        extents = [tirx.Cast("int64", value) for value in values[count:]]
        return tirx.call_extern("int32", kernel.stub, device, *values[:count], *extents)

    body = structural_map(function.body, (Call, launch))
    if PRIVATE not in function.attrs:
        return function.with_body(body).with_attr("target", target)
    # The split takes every function that another one calls for a kernel.
    made = PrimFunc(function.params, body, ret_type=PrimType("int32"))
    return made.with_attr({"target": target, "s_tir": True, PRIVATE: True})


def cuda_source(device: IRModule, described: Any) -> str:
    """CUDA C++ of the kernels. TVM would compile it where it finds a driver: we do that ourselves,
    for the architecture that is asked for."""
    name = "tvm_callback_cuda_compile"
    before = tvm_ffi.get_global_func(name, allow_missing=True)
    tvm_ffi.register_global_func(name, lambda _code: b"", override=True)
    try:
        with described:
            module = tvm_ffi.get_global_func("target.build.cuda")(device, described)
        return str(module.inspect_source("cuda"))
    finally:
        if before is not None:
            tvm_ffi.register_global_func(name, before, override=True)
