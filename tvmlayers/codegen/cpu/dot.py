"""Dot and DotInteraction: products between vectors of the same sample."""

from math import prod
from typing import Any

from tvm.ir import Expr

from tvmlayers import layers
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.kernel import Functions, Lowered, Use, axis, core, in_halves
from tvmlayers.codegen.cpu.rows import Pointer, call_core, fixed, row_kernel
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.dtypes import wide
from tvmlayers.expr.dot import dot, pairwise_dots
from tvmlayers.expr.stored import read_as
from tvmlayers.schedule import Selector
from tvmlayers.spaces import rows as row_spaces


def lower_dot(use: Use, name: str, selector: Selector, _arena: ArenaPlan) -> Lowered:
    layer, dtype, computed = use.layer, use.dtype(0), wide(use.dtype(0))
    assert isinstance(layer, layers.Dot)
    lanes = selector.target.lanes(computed)
    shapes, last = [], []
    for i, contracted in enumerate(layer.axes_of(use.inputs)):
        rank = use.inputs[i].rank
        others = [use.fixed(n, i) for n in range(1, rank) if n != contracted]
        shapes.append((prod(others), use.fixed(contracted, i)))
        last.append(contracted == rank - 1)
    (p, k), (q, _) = shapes
    expression = dot(
        (p, k),
        (q, k),
        normalize=layer.normalize,
        contiguous=(last[0], last[1]),
        lanes=lanes,
        dtype=computed,
    )
    functions: Functions = {}
    kept = in_halves(expression, dtype)
    made, function = core(f"{name}_rows", expression, row_spaces.dot_products, kept=kept)
    functions[made] = function
    element = read_as(dtype)
    pointers = [
        Pointer("a", element, fixed(p * k)),
        Pointer("b", element, fixed(q * k)),
        Pointer("out", element, fixed(p * q)),
    ]
    kernel = row_kernel(
        name,
        functions,
        pointers,
        ["count"],
        4 * k * (p + q + p * q),
        call_core(made, pointers),
        lambda shapes: [axis(shapes[0][0])],
        {"kind": "dot", "layer": layer.name, "dtype": dtype},
    )
    return Lowered(kernel, ())


def lower_dot_interaction(use: Use, name: str, selector: Selector, _arena: ArenaPlan) -> Lowered:
    dtype, features, k = use.dtype(0), use.fixed(1), use.fixed(2)
    computed, element = wide(dtype), read_as(dtype)
    lanes = selector.target.lanes(computed)
    expression = pairwise_dots(features, k, lanes=lanes, dtype=computed)
    functions: Functions = {}
    kept = in_halves(expression, dtype)
    made, function = core(f"{name}_row", expression, row_spaces.dot_products, kept=kept)
    functions[made] = function
    pairs = features * (features - 1) // 2

    def work(given: Any, _scalars: Any, first: Expr, last: Expr) -> None:
        with emit.loop(first, last) as row, emit.loop(emit.i64(1), emit.i64(features)) as j:
            x = emit.offset(given["x"], row * emit.i64(features * k))
            place = row * emit.i64(pairs) + emit.half(j * (j - emit.i64(1)))
            emit.call(made, x, emit.offset(given["out"], place), j)

    kernel = row_kernel(
        name,
        functions,
        [Pointer("x", element, fixed(features * k)), Pointer("out", element, fixed(pairs))],
        ["count"],
        4 * k * pairs,
        work,
        lambda shapes: [axis(shapes[0][0])],
        {"kind": "dot_interaction", "layer": use.layer.name, "dtype": dtype},
    )
    return Lowered(kernel, ())
