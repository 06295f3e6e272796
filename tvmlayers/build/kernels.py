"""The kernel of each kind of layer: expression, space and driver put together.

One function a layer, in the table at the end. A layer that only reshapes memory has none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm.ir import Expr, GlobalVar

from tvmlayers import layers, schedule
from tvmlayers.build import emit
from tvmlayers.build.gemm_kernel import gemm_functions
from tvmlayers.build.kernel import Functions, Kernel, core
from tvmlayers.build.lookup_kernels import bag_kernel, take_kernel
from tvmlayers.build.row_kernels import Pointer, call_core, fixed, row_driver
from tvmlayers.build.weights import ArenaPlan
from tvmlayers.errors import ConfigError
from tvmlayers.expr.activations import ACTIVATIONS, CHEAP, ROW_ACTIVATIONS
from tvmlayers.expr.dot import dot, pairwise_dots
from tvmlayers.expr.elementwise import copy_columns, elementwise
from tvmlayers.expr.pooling import mean_over_time
from tvmlayers.expr.softmax import softmax
from tvmlayers.layers.graph import SymbolicTensor
from tvmlayers.pack import pack_bias, pack_kernel, panel_layout
from tvmlayers.spaces import rows as row_spaces
from tvmlayers.targets import Target

Shapes = Sequence[Sequence[Expr]]


@dataclass(frozen=True)
class Use:
    """One use of a layer in one entry point: its symbolic inputs and what they stand for.

    index_dtype: the dtype that this entry takes indices in.
    """

    layer: layers.Layer
    inputs: tuple[SymbolicTensor, ...]
    roles: tuple[str, ...]
    output: SymbolicTensor
    index_dtype: str

    def dtype(self, i: int) -> str:
        """The dtype of input i in this entry."""
        dtype = self.inputs[i].dtype
        return self.index_dtype if dtype.startswith(("int", "uint")) else dtype


@dataclass(frozen=True)
class Lowered:
    """A kernel, the weights that it takes after its inputs, by arena name, and whether it takes
    the index tensors behind its inputs' masks in between."""

    kernel: Kernel
    weights: tuple[str, ...]
    takes_masks: bool = False


def lower(use: Use, name: str, target: Target, arena: ArenaPlan) -> Lowered:
    """The kernel of `use`, named `name`; its packed weights go into `arena`."""
    return LOWERINGS[type(use.layer)](use, name, target, arena)


def is_view(use: Use) -> bool:
    """Whether the layer's output is its input's memory."""
    layer = use.layer
    return layer.is_view or (isinstance(layer, layers.Activation) and layer.activation == "linear")


def elements(shape: Sequence[Expr]) -> Expr:
    """The product of all axes, int64."""
    total: Expr = emit.i64(1)
    for axis in shape:
        total = total * (emit.i64(axis) if isinstance(axis, int) else axis)
    return total


def _embedding(use: Use, name: str, target: Target, arena: ArenaPlan) -> Lowered:
    layer = use.layer
    assert isinstance(layer, layers.Embedding)
    table = arena.add(f"{layer.name}/embeddings", layer.weights["embeddings"])
    kernel = take_kernel(name, layer, use.index_dtype, target)
    return Lowered(kernel, (table,))


def _embedding_bag(use: Use, name: str, target: Target, arena: ArenaPlan) -> Lowered:
    layer = use.layer
    assert isinstance(layer, layers.EmbeddingBag)
    table = arena.add(f"{layer.name}/embeddings", layer.weights["embeddings"])
    kernel = bag_kernel(name, layer, use.roles, use.index_dtype, target)
    return Lowered(kernel, (table,))


def _dense(use: Use, name: str, target: Target, arena: ArenaPlan) -> Lowered:
    layer = use.layer
    assert isinstance(layer, layers.Dense)
    weights = layer.weights
    k, n = weights["kernel"].shape
    plan = schedule.gemm_plan(k, n, layer.dtype, target)
    layout = panel_layout(k, n, width=plan.width, lanes=plan.lanes, dtype=layer.dtype)
    names = [
        arena.add(f"{layer.name}/kernel", pack_kernel(weights["kernel"], layout), layout.describe())
    ]
    if layer.use_bias:
        names.append(arena.add(f"{layer.name}/bias", pack_bias(weights["bias"], layout)))
    over_row = layer.activation in ROW_ACTIVATIONS
    activation = _elementwise("linear" if over_row else layer.activation)
    functions: Functions = {}
    row_softmax = None
    if over_row:
        row_softmax = _softmax_core(
            f"{name}_softmax", n, layer.activation, layer.dtype, target, functions
        )
    entry, made = gemm_functions(
        name,
        plan,
        layout,
        activation=activation,
        cheap=over_row or layer.activation in CHEAP,
        use_bias=layer.use_bias,
        row_softmax=row_softmax,
    )
    report = {
        "kind": "dense",
        "layer": layer.name,
        "k": k,
        "n": n,
        "dtype": layer.dtype,
        "schedule": schedule.SOURCE,
        "flops_per_row": 2 * k * n,
        "weight_bytes": layout.k * layout.columns * weights["kernel"].itemsize,
        "decisions": {
            "panel": plan.width,
            "rows": list(plan.full_rows),
            "k_unroll": plan.decisions(6)["k_unroll"],
        },
    }
    kernel = Kernel(
        name,
        entry,
        {**functions, **made},
        scalars=lambda shapes: [elements(shapes[0][:-1])],
        report=report,
    )
    return Lowered(kernel, tuple(names))


def _elementwise(activation: Any) -> Callable[[Expr], Expr]:
    if not callable(activation):
        return ACTIVATIONS[activation]

    def checked(x: Expr) -> Expr:
        result = activation(x)
        if not isinstance(result, Expr):
            raise ConfigError(
                f"an activation maps a tensor expression to a tensor expression, "
                f"{activation!r} gave {type(result).__name__}"
            )
        return result

    return checked


def _softmax_core(
    name: str, n: int, kind: object, dtype: str, target: Target, functions: Functions
) -> GlobalVar:
    expression = softmax(n, lanes=target.lanes(dtype), log=kind == "log_softmax", dtype=dtype)
    row_bytes = 2 * (n + target.lanes(dtype)) * target.vector_bytes // target.lanes(dtype)
    made, function = core(
        name,
        expression,
        lambda sch: row_spaces.softmax_rows(sch, row_bytes=row_bytes),
        in_place=True,
    )
    functions[made] = function
    return made


def _row_kernel(
    name: str,
    functions: Functions,
    pointers: Sequence[Pointer],
    scalar_names: Sequence[str],
    cost: int,
    work: Any,
    scalars: Callable[[Shapes], list[Expr]],
    report: dict[str, Any],
) -> Kernel:
    driver = GlobalVar(name)
    functions[driver] = row_driver(
        pointers, scalar_names, lambda s: s["count"] * emit.i64(cost), schedule.ROW_GRAIN, work
    )
    return Kernel(name, driver, functions, scalars, report={**report, "schedule": schedule.SOURCE})


def _activation(use: Use, name: str, target: Target, _arena: ArenaPlan) -> Lowered:
    layer, dtype = use.layer, use.dtype(0)
    assert isinstance(layer, layers.Activation)
    functions: Functions = {}
    itemsize = target.vector_bytes // target.lanes(dtype)
    if layer.activation in ROW_ACTIVATIONS:
        n = _fixed_axis(use, -1)
        made = _softmax_core(f"{name}_rows", n, layer.activation, dtype, target, functions)
    else:
        n = 1
        expression = elementwise(_elementwise(layer.activation), dtype)
        made, function = core(f"{name}_rows", expression, row_spaces.plain)
        functions[made] = function
    pointers = [Pointer("x", dtype, fixed(n)), Pointer("out", dtype, fixed(n))]
    kernel = _row_kernel(
        name,
        functions,
        pointers,
        ["count"],
        4 * n * itemsize,
        call_core(made, pointers),
        lambda shapes: [elements(shapes[0][:-1] if n > 1 else shapes[0])],
        {"kind": "activation", "layer": layer.name, "dtype": dtype},
    )
    return Lowered(kernel, ())


def _fixed_axis(use: Use, axis: int) -> int:
    size = use.inputs[0].shape[axis]
    if size is None:
        raise ConfigError(f"{use.layer.name} needs a fixed length on its last axis")
    return size


def _pooling(use: Use, name: str, target: Target, _arena: ArenaPlan) -> Lowered:
    dtype, width = use.dtype(0), _fixed_axis(use, -1)
    mask = use.inputs[0].mask_of
    expression = mean_over_time(width, mask_dtype=use.index_dtype if mask else None, dtype=dtype)
    functions: Functions = {}
    made, function = core(
        f"{name}_rows",
        expression,
        lambda sch: row_spaces.pooled_rows(sch, lanes=target.lanes(dtype), width=width),
    )
    functions[made] = function
    pointers = [Pointer("x", dtype, lambda s: s["time"] * emit.i64(width))]
    if mask is not None:
        pointers.append(Pointer("ids", use.index_dtype, lambda s: s["time"]))
    pointers.append(Pointer("out", dtype, fixed(width)))
    driver = GlobalVar(name)
    functions[driver] = row_driver(
        pointers,
        ["count", "time"],
        lambda s: s["count"] * s["time"] * emit.i64(width * 4),
        schedule.ROW_GRAIN,
        call_core(made, pointers, ["time"]),
    )
    report = {
        "kind": "pooling",
        "layer": use.layer.name,
        "dtype": dtype,
        "schedule": schedule.SOURCE,
    }
    kernel = Kernel(
        name,
        driver,
        functions,
        lambda shapes: [_i64(shapes[0][0]), _i64(shapes[0][1])],
        report=report,
    )
    return Lowered(kernel, (), takes_masks=mask is not None)


def _i64(axis: Expr | int) -> Expr:
    return emit.i64(axis) if isinstance(axis, int) else axis


def _concatenate(use: Use, name: str, target: Target, _arena: ArenaPlan) -> Lowered:
    layer, dtype = use.layer, use.dtype(0)
    assert isinstance(layer, layers.Concatenate)
    axis = layer.axis % use.inputs[0].rank
    widths = [prod(_fixed(use, n) for n in tensor.shape[axis:]) for tensor in use.inputs]
    functions: Functions = {}
    cores, begin = [], 0
    for i, width in enumerate(widths):
        made, function = core(
            f"{name}_part{i}", copy_columns(width, sum(widths), begin, dtype), row_spaces.plain
        )
        functions[made] = function
        cores.append(made)
        begin += width
    parts = [Pointer(f"x{i}", dtype, fixed(width)) for i, width in enumerate(widths)]
    out = Pointer("out", dtype, fixed(sum(widths)))

    def work(given: Any, scalars: Any, first: Expr, last: Expr) -> None:
        for made, part in zip(cores, parts, strict=True):
            call_core(made, [part, out])(given, scalars, first, last)

    kernel = _row_kernel(
        name,
        functions,
        [*parts, out],
        ["count"],
        8 * sum(widths),
        work,
        lambda shapes: [elements(shapes[0][:axis])],
        {"kind": "concatenate", "layer": layer.name, "dtype": dtype},
    )
    return Lowered(kernel, ())


def _fixed(use: Use, axis: int | None) -> int:
    if axis is None:
        raise ConfigError(
            f"{use.layer.describe()} needs fixed lengths on all axes that it joins or multiplies, "
            f"got {[tensor.shape for tensor in use.inputs]}; give Input(shape=...) numbers there"
        )
    return axis


def _dot(use: Use, name: str, target: Target, _arena: ArenaPlan) -> Lowered:
    layer, dtype = use.layer, use.dtype(0)
    assert isinstance(layer, layers.Dot)
    lanes = target.lanes(dtype)
    shapes, last = [], []
    for tensor, axis in zip(use.inputs, layer.axes_of(use.inputs), strict=True):
        others = [_fixed(use, n) for i, n in enumerate(tensor.shape) if i not in (0, axis)]
        shapes.append((prod(others), _fixed(use, tensor.shape[axis])))
        last.append(axis == tensor.rank - 1)
    (p, k), (q, _) = shapes
    expression = dot(
        (p, k),
        (q, k),
        normalize=layer.normalize,
        contiguous=(last[0], last[1]),
        lanes=lanes,
        dtype=dtype,
    )
    functions: Functions = {}
    made, function = core(f"{name}_rows", expression, row_spaces.dot_products)
    functions[made] = function
    pointers = [
        Pointer("a", dtype, fixed(p * k)),
        Pointer("b", dtype, fixed(q * k)),
        Pointer("out", dtype, fixed(p * q)),
    ]
    kernel = _row_kernel(
        name,
        functions,
        pointers,
        ["count"],
        4 * k * (p + q + p * q),
        call_core(made, pointers),
        lambda shapes: [_i64(shapes[0][0])],
        {"kind": "dot", "layer": layer.name, "dtype": dtype},
    )
    return Lowered(kernel, ())


def _dot_interaction(use: Use, name: str, target: Target, _arena: ArenaPlan) -> Lowered:
    dtype, features, k = use.dtype(0), _fixed_axis(use, 1), _fixed_axis(use, 2)
    expression = pairwise_dots(features, k, lanes=target.lanes(dtype), dtype=dtype)
    functions: Functions = {}
    made, function = core(f"{name}_row", expression, row_spaces.dot_products)
    functions[made] = function
    pairs = features * (features - 1) // 2

    def work(given: Any, _scalars: Any, first: Expr, last: Expr) -> None:
        with emit.loop(first, last) as row, emit.loop(emit.i64(1), emit.i64(features)) as j:
            x = emit.offset(given["x"], row * emit.i64(features * k))
            place = row * emit.i64(pairs) + emit.half(j * (j - emit.i64(1)))
            emit.call(made, x, emit.offset(given["out"], place), j)

    kernel = _row_kernel(
        name,
        functions,
        [Pointer("x", dtype, fixed(features * k)), Pointer("out", dtype, fixed(pairs))],
        ["count"],
        4 * k * pairs,
        work,
        lambda shapes: [_i64(shapes[0][0])],
        {"kind": "dot_interaction", "layer": use.layer.name, "dtype": dtype},
    )
    return Lowered(kernel, ())


LOWERINGS: dict[type[layers.Layer], Callable[[Use, str, Target, ArenaPlan], Lowered]] = {
    layers.Embedding: _embedding,
    layers.EmbeddingBag: _embedding_bag,
    layers.Dense: _dense,
    layers.Activation: _activation,
    layers.GlobalAveragePooling1D: _pooling,
    layers.Concatenate: _concatenate,
    layers.Dot: _dot,
    layers.DotInteraction: _dot_interaction,
}
