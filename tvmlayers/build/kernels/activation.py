"""Activations by themselves, and softmax as the last step of a Dense."""

from collections.abc import Callable
from typing import Any

from tvm.ir import Expr, GlobalVar

from tvmlayers import layers
from tvmlayers.build.kernels.kernel import Functions, Lowered, Use, core, elements
from tvmlayers.build.kernels.rows import Pointer, call_core, fixed, row_kernel
from tvmlayers.build.weights import ArenaPlan
from tvmlayers.errors import ConfigError
from tvmlayers.expr.activations import ACTIVATIONS, ROW_ACTIVATIONS
from tvmlayers.expr.elementwise import elementwise
from tvmlayers.expr.softmax import softmax
from tvmlayers.spaces import rows as row_spaces
from tvmlayers.targets import Target


def elementwise_function(activation: Any) -> Callable[[Expr], Expr]:
    """The activation of that name, or the caller's own with its result checked."""
    if not callable(activation):
        return ACTIVATIONS[activation]

    def checked(x: Expr) -> Expr:
        try:
            result = activation(x)
        except AttributeError as error:
            raise ConfigError(
                f"the activation {activation!r} failed on a tensor expression: {error} "
                "(its dtype is x.ty.dtype)"
            ) from error
        if not isinstance(result, Expr):
            raise ConfigError(
                f"an activation maps a tensor expression to a tensor expression, "
                f"{activation!r} gave {type(result).__name__}"
            )
        return result

    return checked


def softmax_core(
    name: str, n: int, kind: object, dtype: str, target: Target, functions: Functions
) -> GlobalVar:
    """softmax or log_softmax of rows of n, in place; added to `functions`."""
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


def lower_activation(use: Use, name: str, target: Target, _arena: ArenaPlan) -> Lowered:
    layer, dtype = use.layer, use.dtype(0)
    assert isinstance(layer, layers.Activation)
    functions: Functions = {}
    itemsize = target.vector_bytes // target.lanes(dtype)
    if layer.activation in ROW_ACTIVATIONS:
        n = use.fixed(-1)
        made = softmax_core(f"{name}_rows", n, layer.activation, dtype, target, functions)
    else:
        n = 1
        expression = elementwise(elementwise_function(layer.activation), dtype)
        made, function = core(f"{name}_rows", expression, row_spaces.plain)
        functions[made] = function
    pointers = [Pointer("x", dtype, fixed(n)), Pointer("out", dtype, fixed(n))]
    kernel = row_kernel(
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
