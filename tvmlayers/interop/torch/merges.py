"""Rows of the table for operators element by element: of two tensors, or of one and a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.torch.calls import Call, Plan, dtype_of, shape_of
from tvmlayers.interop.torch.context import Context
from tvmlayers.layers import Add, Layer, Maximum, Minimum, Multiply, Rescaling, Subtract


def merged(kind: Callable[..., Layer]) -> Callable[[Call, Context], Plan]:
    """The row of an operator on two tensors of the model."""

    def row(call: Call, context: Context) -> Plan:
        pair = call["self"], call["other"]
        if not all(call.is_symbolic(each) for each in pair):
            raise Unsupported("no layer here does that with a constant")
        return _merge(call, context, kind)

    return row


maximum, minimum = merged(Maximum), merged(Minimum)


def add(call: Call, context: Context) -> Plan:
    """Add, or Rescaling where one of the two is a constant."""
    for x, other in ((call["self"], call["other"]), (call["other"], call["self"])):
        constant = _constant(call, other)
        if constant is not None:
            return _rescaled(call, context, *_scaled(call, x), constant)
    return _merge(call, context, Add)


def sub(call: Call, context: Context) -> Plan:
    """Subtract, or Rescaling where one of the two is a constant."""
    left, right = _constant(call, call["self"]), _constant(call, call["other"])
    if right is not None:
        return _rescaled(call, context, call["self"], 1.0, -right)
    if left is not None:
        return _rescaled(call, context, call["other"], -1.0, left)
    return _merge(call, context, Subtract)


def rsub(call: Call, context: Context) -> Plan:
    """Rescaling: a constant less the tensor."""
    call.need(alpha=1)
    return _rescaled(call, context, call["self"], -1.0, _constant(call, call["other"]))


def div(call: Call, context: Context) -> Plan:
    """Rescaling by one over a constant."""
    constant = _constant(call, call["other"])
    if constant is None or not call.is_symbolic(call["self"]):
        raise Unsupported("no layer here divides by a tensor, but for softsign's x / (1 + |x|)")
    return _rescaled(call, context, call["self"], 1.0 / constant, 0.0)


def mul(call: Call, context: Context) -> Plan:
    """Multiply, or Rescaling where one of the two is a constant."""
    for x, other in ((call["self"], call["other"]), (call["other"], call["self"])):
        constant = _constant(call, other)
        if constant is not None:
            return _rescaled(call, context, x, constant, 0.0)
    return _merge(call, context, Multiply)


def _scaled(call: Call, x: Any) -> tuple[Any, Any]:
    """(tensor, scale) whose product x is; (x, 1) where it is no such product."""
    product = call.call_of(x)
    if product is not None and product.operator == "mul" and product.shape == shape_of(x):
        for source, other in (
            (product["self"], product["other"]),
            (product["other"], product["self"]),
        ):
            scale = _constant(call, other)
            if scale is not None and shape_of(source) == product.shape:
                return source, scale
    return x, 1.0


def _merge(call: Call, context: Context, kind: Callable[..., Layer]) -> Plan:
    left, right = call["self"], call["other"]
    shapes = shape_of(left), shape_of(right)
    if any(dtype_of(each) != dtype_of(call.node) for each in (left, right)):
        raise Unsupported(f"no layer here casts {dtype_of(left)} and {dtype_of(right)} to one")
    if len(shapes[0]) != len(shapes[1]) or shapes[0][:1] != shapes[1][:1] or not shapes[0]:
        raise Unsupported(f"only tensors of one rank and one batch are there, not {shapes}")
    return Plan((left, right), lambda x, y: context.plain(call, kind)([x, y]))


def _constant(call: Call, value: Any) -> Any:
    """A number or a constant tensor in float64; None where the value depends on the inputs."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if call.is_symbolic(value):
        return None
    from torch._subclasses.fake_tensor import FakeTensor

    tensor = call.constants[value]
    if isinstance(tensor, FakeTensor):  # a graph of torch.compile, whose parameters may change
        raise Unsupported("no layer here has a factor or a term that comes with each call")
    tensor = tensor.double()
    return float(tensor) if tensor.ndim == 0 else tensor.cpu().numpy()


def _rescaled(call: Call, context: Context, x: Any, scale: Any, offset: Any) -> Plan:
    """x * scale + offset; a constant of as many axes as x has 1 for the batch."""
    if shape_of(x) != call.shape or dtype_of(x) != dtype_of(call.node):
        raise Unsupported("no layer here makes a tensor larger, or of another dtype, by a constant")

    def without_batch(value: Any) -> Any:
        has_batch = getattr(value, "ndim", 0) == len(call.shape)
        return value.reshape(value.shape[1:]) if has_batch else value

    numbers = without_batch(scale), without_batch(offset)
    return Plan((x,), lambda x: context.plain(call, Rescaling, *numbers)(x))
