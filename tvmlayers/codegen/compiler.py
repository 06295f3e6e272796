"""`compile`: the whole way from a model of layers to a callable for one piece of hardware."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.ir import GlobalVar

from tvmlayers import targets
from tvmlayers.codegen.cpu.kernel import Functions, Kernel
from tvmlayers.codegen.description import make_manifest
from tvmlayers.codegen.entries import entry_specs
from tvmlayers.codegen.fold import folded
from tvmlayers.codegen.forward import forward_function
from tvmlayers.codegen.graph import Kernels, planned, relax_module
from tvmlayers.codegen.modules import Library, Modules
from tvmlayers.codegen.running import running
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.layers import Layer, Model, as_model
from tvmlayers.layers.names import naming
from tvmlayers.runtime.compiled import Compiled
from tvmlayers.runtime.cuda import CudaCompiled
from tvmlayers.schedule import Selector
from tvmlayers.schedule.cuda import CudaSelector


def compile(
    model: Model | Layer,
    target: object = "native",
    threads: int | None = None,
    *,
    example: object = None,
    records: bool = True,
) -> Compiled | CudaCompiled:
    """`model` compiled for `target`: a callable that takes any batch size and never recompiles.

    target: a name of `tvmlayers targets`, or anything `targets.resolve` takes; threads: how many
    one call may use, by default the physical cores; example: an array-like (or a tuple of them) for
    a model whose input shape is not known yet, of which only the shape and dtype are read; records:
    whether tuned schedules are looked up, or every choice is left to the analytic model.

    A model compiled for another machine can be saved there but not called here. Compiling for a
    GPU needs none, but nvcc or the packages of `tvmlayers[cuda]`.
    """
    resolved = targets.resolve(target)
    is_cuda = isinstance(resolved, targets.CudaTarget)
    # GPUs have no kernel for a batch normalisation.
    built = folded(as_model(model, example), halves=is_cuda)
    if isinstance(resolved, targets.CudaTarget):
        from tvmlayers.codegen.cuda import compile_cuda

        return compile_cuda(built, CudaSelector(resolved, records))
    return compile_selected(built, Selector(resolved, records), threads)


def compile_selected(
    model: Model,
    selector: Selector,
    threads: int | None = None,
    fill: Callable[[ArenaPlan], NDArray[np.uint8]] = ArenaPlan.fill,
) -> Compiled:
    """A built model compiled with the decisions of `selector`.

    fill: makes the arena from its plan, where the weights are not to be packed again.
    """
    library, manifest, plan = _build(model, selector)
    get_function, linked = running(library, selector.target, "model", "save")
    return Compiled(manifest, get_function, fill(plan), threads, linked)


def assembly(model: Model, selector: Selector) -> str:
    """The machine code of a built model, as an assembler takes it."""
    library, _, _ = _build(model, selector)
    return library.assembly()


def _build(model: Model, selector: Selector) -> tuple[Library, dict[str, Any], ArenaPlan]:
    """(machine code, manifest, plan of the arena) of a built model."""
    with Modules(selector.target) as modules:
        return _build_in(modules, model, selector)


def _build_in(
    modules: Modules, model: Model, selector: Selector
) -> tuple[Library, dict[str, Any], ArenaPlan]:
    # TVM keeps one stack of builders for all threads; and names must not change during it.
    with naming:
        functions, manifest, arena = _functions(model, selector, modules.add)
    return modules.finish(functions), manifest, arena


def _functions(
    model: Model, selector: Selector, on_made: Callable[[Kernel], None]
) -> tuple[Functions, dict[str, Any], ArenaPlan]:
    """(entry points and what they call, manifest, plan of the arena) of a built model.

    on_made: called with each kernel as soon as it is made.
    """
    graph = model.ready().graph
    kernels = Kernels(selector, on_made=lambda made: on_made(made.kernel))
    relaxed, entries = relax_module(graph, entry_specs(graph), kernels)
    relaxed = planned(relaxed)
    functions: Functions = {}
    described: list[dict[str, Any]] = []
    checks: list[list[dict[str, Any]]] = []
    for entry in entries:
        function = relaxed[entry.spec.symbol]
        forward = forward_function(
            function, entry, kernels.by_name(), kernels.arena, selector.target
        )
        functions |= {GlobalVar(entry.spec.symbol): forward.function, **forward.private}
        checks.append(forward.checks)
        described.append(
            {
                "symbol": entry.spec.symbol,
                "inputs": [given.manifest() for given in entry.spec.inputs],
                "outputs": entry.outputs,
                "scratch": forward.needs_scratch,
            }
        )
    manifest = make_manifest(model, selector.target, described, checks, kernels)
    manifest["cpu_features"] = list(selector.target.cpu_flags)
    return functions, manifest, kernels.arena
