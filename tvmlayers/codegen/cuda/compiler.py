"""From a model to a callable for one kind of GPU; no GPU is needed for that."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tvm.ir import GlobalVar, IRModule

from tvmlayers import targets
from tvmlayers.codegen import link
from tvmlayers.codegen.cuda.forward import forward_function
from tvmlayers.codegen.cuda.kernels import lower as lower_kernel
from tvmlayers.codegen.cuda.kernels import lower_copy
from tvmlayers.codegen.cuda.lower import LoweredModule, lower
from tvmlayers.codegen.cuda.stubs import stubs
from tvmlayers.codegen.cuda.toolchain import Toolchain, device_images
from tvmlayers.codegen.description import make_manifest
from tvmlayers.codegen.entries import entry_specs
from tvmlayers.codegen.graph import Kernels, planned, relax_module
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.errors import only_on_cpus
from tvmlayers.layers import Model
from tvmlayers.layers.names import naming
from tvmlayers.layers.stored import fewer_bits
from tvmlayers.runtime.cuda import CudaCompiled, Driver
from tvmlayers.schedule.cuda import CudaSelector
from tvmlayers.targets import CudaTarget


def compile_cuda(
    model: Model,
    selector: CudaSelector,
    toolchain: Toolchain = device_images,
    driver: Driver | None = None,
    arena_of: Callable[[ArenaPlan], Any] = ArenaPlan.fill,
) -> CudaCompiled:
    """A built model compiled with the decisions of `selector`.

    toolchain: makes machine code of CUDA source; driver: what the model will run with, by default
    NVIDIA's, looked for at the first call; arena_of: gives the packed weights.
    """
    lowered, manifest, arena = lower_model(model, selector, arena_of)
    images = toolchain(lowered.source, lowered.kernels, selector.target)
    manifest["cuda"] = {
        "kernels": [kernel.name for kernel in lowered.kernels],
        "arch": selector.target.arch,
        "compiler": images.compiler,
        "resources": images.resources,
    }
    return CudaCompiled(manifest, _host_library(lowered), images.binaries, arena, driver=driver)


def lower_model(
    model: Model, selector: CudaSelector, arena_of: Callable[[ArenaPlan], Any] = ArenaPlan.fill
) -> tuple[LoweredModule, dict[str, Any], Any]:
    """(host code and CUDA source, manifest, filled arena) of a built model."""
    with naming:  # as for a CPU
        module, manifest, arena = _lowered(model, selector)
    return lower(module, selector.target, host_target()), manifest, arena_of(arena)


def _lowered(model: Model, selector: CudaSelector) -> tuple[IRModule, dict[str, Any], ArenaPlan]:
    graph = model.ready().graph
    for layer in graph.layers:
        if stored := fewer_bits(layer):
            raise only_on_cpus(repr(layer.name), stored, selector.target.name)
    kernels = Kernels(selector, lower_kernel, lower_copy)
    relaxed, entries = relax_module(graph, entry_specs(graph), kernels)
    relaxed = planned(relaxed)
    module = IRModule({})
    described: list[dict[str, Any]] = []
    checks: list[list[dict[str, Any]]] = []
    for entry in entries:
        function = relaxed[entry.spec.symbol]
        forward, sizes = forward_function(
            function, entry, kernels.by_name(), kernels.arena, selector.target
        )
        module[GlobalVar(entry.spec.symbol)] = forward.function
        checks.append(forward.checks)
        described.append(
            {
                "symbol": entry.spec.symbol,
                "inputs": [given.manifest() for given in entry.spec.inputs],
                "outputs": entry.outputs,
                "sizes": sizes,
                "checks": len(forward.checks),
                "device_scratch": forward.needs_scratch,
            }
        )
    for made in kernels.made.values():
        for name, private in made.kernel.functions.items():
            module[name] = private
    manifest = make_manifest(model, selector.target, described, checks, kernels)
    manifest["cpu_features"] = []
    manifest["host"] = host_target()["mtriple"]
    return module, manifest, kernels.arena


def host_target() -> dict[str, Any]:
    """The CPU that launches: any of this machine's instruction set, with TVM's words."""
    machine = targets.machine()
    cpu = "x86-64" if machine == "x86_64" else "generic"
    return {"kind": "llvm", "mtriple": f"{machine}-unknown-linux-gnu", "mcpu": cpu}


def source_of(model: Model, target: CudaTarget) -> LoweredModule:
    """The CUDA source of a built model with the analytic schedules."""
    return lower_model(model, CudaSelector(target, use_records=False))[0]


def _host_library(lowered: LoweredModule) -> bytes:
    """The host code, linked with the stubs that launch."""
    with tempfile.TemporaryDirectory() as folder:
        host, stub, library = (str(Path(folder) / name) for name in ("host.o", "s.c", "lib.so"))
        Path(stub).write_text(stubs(lowered.kernels), encoding="utf-8")
        lowered.host.write_to_file(host, "o")
        options = [*link.SHARED, "-O2", "-o", library, host, stub]
        link.run(link.compiler(), options, "linking what launches the kernels")
        return Path(library).read_bytes()
