"""A whole model as one Relax module: a function for each entry point, a call for each kernel.

Relax infers the shapes and plans the memory; what comes out is a straight line of calls in
destination-passing style, which `forward` turns into one host function.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir import Expr, IRModule
from tvm.relax import transform

from tvmlayers import layers
from tvmlayers.codegen.cpu import Lowered, Use, is_view, lower, lower_copy
from tvmlayers.codegen.entries import EntrySpec, root, uses
from tvmlayers.codegen.fuse import NormalizedMerge, Step, fused_steps
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.dtypes import FLOAT_DTYPES
from tvmlayers.layers.graph import Graph, SymbolicTensor
from tvmlayers.layers.normalization import RowNormalization

# Whose large results are written past the caches where no kernel reads them.
_STREAMING = (layers.Embedding, layers.Activation, RowNormalization, NormalizedMerge)

Lower = Callable[[Use, str, Any, ArenaPlan], Lowered]


class Kernels:
    """The kernels of a model, each made once and shared by the entry points that can."""

    def __init__(
        self,
        selector: Any,
        lower: Lower = lower,
        lower_copy: Callable[[str, str, str], Lowered] = lower_copy,
        on_made: Callable[[Lowered], None] = lambda _: None,
    ) -> None:
        """lower, lower_copy: make kernels; `codegen.cuda.kernels` has those for GPUs.

        on_made: called with each as soon as it is made.
        """
        self.selector, self.on_made = selector, on_made
        self.lower, self.lower_copy = lower, lower_copy
        self.arena = ArenaPlan()
        self.made: dict[tuple[object, ...], Lowered] = {}

    def of(self, use: Use) -> Lowered:
        """The kernel of one use of a layer."""
        masks = tuple(t.mask_of is not None for t in use.inputs)
        dtypes = tuple(use.dtype(i) for i in range(len(use.inputs)))
        reads_indices = any(masks) or use.index_dtype in dtypes
        lengths = () if use.layer.fits_any_shape else tuple(t.shape[1:] for t in use.inputs)
        index_dtype = use.index_dtype if reads_indices else None
        leaves = use.leaves and isinstance(use.layer, _STREAMING)
        key = (id(use.layer), use.roles, lengths, masks, dtypes, index_dtype, leaves)
        name = f"k{len(self.made)}_{use.layer.name}"
        made = self._once(key, lambda: self.lower(use, name, self.selector, self.arena))
        then = made.then
        if then is not None:
            self._once((*key, "then"), lambda: then)
        return made

    def copy(self, dtype: str) -> Lowered:
        """A plain copy, for an output that is an input or stands twice."""
        return self._once(("copy", dtype), lambda: self.lower_copy(f"copy_{dtype}", dtype, dtype))

    def cast(self, given: str, wanted: str) -> Lowered:
        """A copy in another dtype, for an input that a layer takes so."""
        name = f"cast_{given}_{wanted}"
        return self._once(("cast", given, wanted), lambda: self.lower_copy(name, given, wanted))

    def _once(self, key: tuple[object, ...], make: Callable[[], Lowered]) -> Lowered:
        if key not in self.made:
            self.made[key] = make()
            self.on_made(self.made[key])
        return self.made[key]

    def by_name(self) -> dict[str, Lowered]:
        """The kernels by the names under which Relax calls them."""
        return {lowered.kernel.name: lowered for lowered in self.made.values()}


@dataclass
class EntryFunction:
    """One entry point in Relax: its inputs, and weights in the order of its parameters."""

    spec: EntrySpec
    weights: list[str] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)


def relax_module(
    graph: Graph, entries: Sequence[EntrySpec], kernels: Kernels
) -> tuple[IRModule, list[EntryFunction]]:
    """The module with one function for each entry, and what the functions' parameters are."""
    builder = relax.BlockBuilder()
    steps = fused_steps(graph)
    functions = [_emit_entry(builder, graph, steps, spec, kernels) for spec in entries]
    return builder.finalize(), functions


def planned(module: IRModule) -> IRModule:
    """`module` with calls in destination-passing style and memory shared between values."""
    return tvm.transform.Sequential(
        [
            transform.RemovePurityChecking(),
            transform.CallTIRRewrite(),
            transform.StaticPlanBlockMemory(),
        ]
    )(module)


def _emit_entry(
    builder: relax.BlockBuilder,
    graph: Graph,
    steps: Sequence[Step],
    spec: EntrySpec,
    kernels: Kernels,
) -> EntryFunction:
    function = EntryFunction(spec)
    symbols: dict[str, tirx.Var] = {}
    values: dict[int, Any] = {}
    params = []
    for given in spec.inputs:
        param = relax.Var(given.name, _type(given.dims, given.dtype, symbols))
        params.append(param)
        values[id(given)] = param
        if given.tensor is not None:
            values[id(given.tensor)] = param
    lowered = [
        (use, inputs, None if is_view(use.layer) else kernels.of(use))
        for use, inputs in uses(steps, graph, spec)
    ]
    weights: dict[str, Any] = {}
    for _, _, made in lowered:
        for name in made.weights if made is not None else ():
            if name not in weights:
                size = kernels.arena.size(name)
                weights[name] = relax.Var(
                    f"w{len(weights)}", _type((size,), kernels.arena.dtype(name), symbols)
                )
    function.weights = list(weights)
    casts: dict[tuple[int, str], Any] = {}

    def cast(given: Any, wanted: str) -> Any:
        """What replaces an input of a layer that takes floats of that dtype."""
        value = values[id(given)]
        if given.dtype == wanted or given.dtype not in FLOAT_DTYPES:
            return value
        key = id(given), wanted
        if key not in casts:
            name = kernels.cast(given.dtype, wanted).kernel.name
            result = _type(spec.dims(given), wanted, symbols)
            casts[key] = builder.emit(relax.op.call_dps_packed(name, relax.Tuple([value]), result))
        return casts[key]

    with builder.function(spec.symbol, [*params, *weights.values()]):
        for use, inputs, made in lowered:
            dims = spec.dims(use.output)
            if made is None:
                source = values[id(inputs[0])]
                shape = relax.ShapeExpr([extent(d, symbols) for d in dims])
                values[id(use.output)] = builder.emit(relax.op.reshape(source, shape))
                continue
            masks = [t.mask_of for t in use.inputs if t.mask_of] if made.takes_masks else []
            arguments = [cast(given, use.output.dtype) for given in inputs]
            arguments += [values[id(mask)] for mask in masks]
            arguments += [weights[name] for name in made.weights]
            result = _type(dims, made.between or use.output.dtype, symbols)
            call = relax.op.call_dps_packed(made.kernel.name, relax.Tuple(arguments), result)
            value = builder.emit(call)
            if made.then is not None:
                result = _type(dims, use.output.dtype, symbols)
                name = made.then.kernel.name
                value = builder.emit(relax.op.call_dps_packed(name, relax.Tuple([value]), result))
            values[id(use.output)] = value
        results = []
        for tensor in graph.outputs:
            dims = spec.dims(tensor)
            shape = _type(dims, tensor.dtype, symbols)
            result = values[id(tensor)]
            if _needs_copy(tensor, graph):
                copy = kernels.copy(tensor.dtype).kernel.name
                result = builder.emit(relax.op.call_dps_packed(copy, relax.Tuple([result]), shape))
            results.append(result)
            function.outputs.append(
                {"name": tensor.name, "shape": list(dims), "dtype": tensor.dtype}
            )
        builder.emit_func_output(results[0] if len(results) == 1 else relax.Tuple(results))
    return function


def _needs_copy(tensor: SymbolicTensor, graph: Graph) -> bool:
    """Whether an output shares its memory with an input or with an output before it."""
    own = root(tensor)
    before = graph.outputs[: next(i for i, t in enumerate(graph.outputs) if t is tensor)]
    return own.node is None or any(root(other) is own for other in before)


def _type(dims: Sequence[int | str], dtype: str, symbols: dict[str, tirx.Var]) -> relax.TensorType:
    return relax.TensorType([extent(dim, symbols) for dim in dims], dtype)


def extent(dim: int | str, symbols: dict[str, tirx.Var]) -> Expr:
    """An axis as an int64 expression; "n2-1" is the symbol n2 less one."""
    if isinstance(dim, int):
        return tirx.const(dim, "int64")
    name, _, less = dim.partition("-")
    symbol = symbols.setdefault(name, tirx.Var(name, "int64"))
    return symbol - tirx.const(int(less), "int64") if less else symbol
