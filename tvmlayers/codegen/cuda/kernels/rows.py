"""Kernels over rows on a GPU: activations, softmax, concatenate, pooling, dot products."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from tvm import s_tir
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc

from tvmlayers import layers
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu import Kernel, Lowered, Use, elements
from tvmlayers.codegen.cpu.activation import TYPICAL_ROWS, elementwise_function
from tvmlayers.codegen.cpu.kernel import Shapes, axis, report
from tvmlayers.codegen.cuda import launch
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.expr.activations import ROW_ACTIVATIONS
from tvmlayers.expr.elementwise import elementwise
from tvmlayers.expr.expression import Expression
from tvmlayers.expr.pooling import max_over_time, mean_over_time
from tvmlayers.expr.rowwise import all_pairs, dots, joined, softmax
from tvmlayers.schedule import ANALYTIC
from tvmlayers.schedule.cuda import CudaSelector
from tvmlayers.spaces import cuda_rows
from tvmlayers.targets.cuda import WARP
from tvmlayers.workload import Workload

Schedule = Callable[[s_tir.Schedule], None]


def launching(
    expression: Expression,
    schedule: Schedule,
    pointers: Sequence[tuple[str, str]],
    sizes: Sequence[str] = ("count",),
    *,
    in_place: bool = False,
) -> PrimFunc:
    """`f(pointers, sizes, device)` that launches one scheduled expression.

    pointers: (name, dtype) of each; in_place: the result may be one of the inputs.
    """
    function = launch.scheduled(expression, schedule)

    def body() -> None:
        given = [emit.argument(name, f"*{dtype}") for name, dtype in pointers]
        scalars = [emit.argument(name, "int64") for name in sizes]
        emit.argument(launch.DEVICE, "int64")
        launch.put(expression, function, given, scalars)

    return emit.private(body).with_attr("tirx.noalias", not in_place)


def softmax_function(
    n: int,
    kind: object,
    dtype: str,
    selector: CudaSelector,
    *,
    in_place: bool,
    out_dtype: str | None = None,
) -> PrimFunc:
    """softmax or log_softmax of rows of n: `f(x, out, count, device)`.

    out_dtype: of the result, where it is not that of x.
    """
    regime = selector.decide_once(Workload.make("softmax", m=TYPICAL_ROWS, n=n, dtype=dtype))
    return launching(
        softmax(n, log=kind == "log_softmax", dtype=dtype, out_dtype=out_dtype),
        lambda sch: cuda_rows.softmax_rows(sch, decisions=regime.decisions),
        [("x", dtype), ("out", out_dtype or dtype)],
        in_place=in_place,
    )


def kernel(
    name: str,
    function: PrimFunc,
    scalars: Callable[[Shapes], list[Expr]],
    described: dict[str, Any],
    takes_masks: bool = False,
    weights: tuple[str, ...] = (),
) -> Lowered:
    """A kernel that is never tuned."""
    entry = GlobalVar(name)
    row = {"schedule": ANALYTIC, **described}
    return Lowered(
        Kernel(name, entry, {entry: function}, scalars, report=row), weights, takes_masks
    )


def lower_activation(use: Use, name: str, selector: CudaSelector, _arena: ArenaPlan) -> Lowered:
    layer, dtype = use.layer, use.dtype(0)
    assert isinstance(layer, layers.Activation)
    described: dict[str, Any] = {"kind": "activation", "layer": layer.name, "dtype": dtype}
    if layer.activation not in ROW_ACTIVATIONS:
        function = _elementwise(layer.activation, dtype)
        return kernel(name, function, lambda shapes: [elements(shapes[0])], described)
    n = use.fixed(-1)
    function = softmax_function(n, layer.activation, dtype, selector, in_place=False)
    regime = selector.decide_once(Workload.make("softmax", m=TYPICAL_ROWS, n=n, dtype=dtype))
    described = report(
        Workload.make("softmax", m=1, n=n, dtype=dtype),
        [regime],
        layer.name,
        flops=4 * n,
        bytes_per_item=2 * n * np.dtype(dtype).itemsize,
    )
    return kernel(name, function, lambda shapes: [elements(shapes[0][:-1])], described)


def lower_copy(name: str, given: str, wanted: str) -> Lowered:
    """A tensor of any shape copied as it is, or in another dtype."""
    function = _elementwise("linear", given, wanted)
    made = kernel(name, function, lambda shapes: [elements(shapes[0])], {})
    made.kernel.report = {}
    return made


def _elementwise(activation: Any, dtype: str, out_dtype: str | None = None) -> PrimFunc:
    out_dtype = out_dtype or dtype
    expression = elementwise(elementwise_function(activation), dtype, out_dtype)
    return launching(expression, cuda_rows.spread, [("x", dtype), ("out", out_dtype)])


def lower_concatenate(use: Use, name: str, selector: CudaSelector, _arena: ArenaPlan) -> Lowered:
    layer, dtype = use.layer, use.dtype(0)
    assert isinstance(layer, layers.Concatenate)
    rank = use.inputs[0].rank
    first = layer.axis % rank
    widths = [prod(use.fixed(n, i) for n in range(first, rank)) for i in range(len(use.inputs))]
    pointers = [*((f"x{i}", dtype) for i in range(len(widths))), ("out", dtype)]
    # One tensor may be joined with itself.
    function = launching(joined(widths, dtype), cuda_rows.spread, pointers, in_place=True)
    described = {"kind": "concatenate", "layer": layer.name, "dtype": dtype}
    return kernel(name, function, lambda shapes: [elements(shapes[0][:first])], described)


def lower_pooling(use: Use, name: str, selector: CudaSelector, _arena: ArenaPlan) -> Lowered:
    dtype, width = use.dtype(0), use.fixed(-1)
    mask = use.inputs[0].mask_of
    expression = mean_over_time(width, mask_dtype=use.index_dtype if mask else None, dtype=dtype)
    masks = [("ids", use.index_dtype)] if mask else []
    function = launching(
        expression,
        lambda sch: cuda_rows.column_sums(
            sch, ["acc", *(["present"] if mask else [])], width=width
        ),
        [("x", dtype), *masks, ("out", dtype)],
        ["count", "time"],
    )
    return kernel(
        name,
        function,
        lambda shapes: [axis(shapes[0][0]), axis(shapes[0][1])],
        {"kind": "pooling", "layer": use.layer.name, "dtype": dtype},
        takes_masks=mask is not None,
    )


def lower_max_pooling(use: Use, name: str, _selector: CudaSelector, _arena: ArenaPlan) -> Lowered:
    dtype, width = use.dtype(0), use.fixed(-1)
    function = launching(
        max_over_time(width, dtype=dtype),
        lambda sch: cuda_rows.column_sums(sch, ["acc"], width=width),
        [("x", dtype), ("out", dtype)],
        ["count", "time"],
    )
    return kernel(
        name,
        function,
        lambda shapes: [axis(shapes[0][0]), axis(shapes[0][1])],
        {"kind": "pooling", "layer": use.layer.name, "dtype": dtype},
    )


def lower_dot(use: Use, name: str, selector: CudaSelector, _arena: ArenaPlan) -> Lowered:
    layer, dtype = use.layer, use.dtype(0)
    assert isinstance(layer, layers.Dot)
    shapes, last = [], []
    for i, contracted in enumerate(layer.axes_of(use.inputs)):
        rank = use.inputs[i].rank
        others = [use.fixed(n, i) for n in range(1, rank) if n != contracted]
        shapes.append((prod(others), use.fixed(contracted, i)))
        last.append(contracted == rank - 1)
    expression, sums = dots(
        shapes[0],
        shapes[1],
        normalize=layer.normalize,
        contiguous=(last[0], last[1]),
        dtype=dtype,
    )
    function = launching(
        expression,
        _sums_of(shapes[0][1], sums, alone=shapes[0][0] == shapes[1][0] == 1),
        [("a", dtype), ("b", dtype), ("out", dtype)],
        in_place=True,  # a tensor with itself
    )
    described = {"kind": "dot", "layer": layer.name, "dtype": dtype}
    return kernel(name, function, lambda shapes: [axis(shapes[0][0])], described)


def lower_dot_interaction(
    use: Use, name: str, selector: CudaSelector, _arena: ArenaPlan
) -> Lowered:
    dtype, features, k = use.dtype(0), use.fixed(1), use.fixed(2)
    function = launching(
        all_pairs(features, k, dtype=dtype),
        _sums_of(k, ["dots"], alone=False),
        [("x", dtype), ("out", dtype)],
    )
    described = {"kind": "dot_interaction", "layer": use.layer.name, "dtype": dtype}
    return kernel(name, function, lambda shapes: [axis(shapes[0][0])], described)


def _sums_of(k: int, sums: list[str], *, alone: bool) -> Schedule:
    """A thread for each sum of few terms, a warp for each sum of many."""
    if k < WARP:
        return lambda sch: cuda_rows.own_sums(sch, sums)
    return lambda sch: cuda_rows.warp_sums(sch, sums, alone=alone)
