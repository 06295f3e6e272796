"""Rows of the table for normalisations, and for rectifiers with slopes of their own."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose
from typing import TYPE_CHECKING, Any

from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.torch.calls import Call, Plan, dtype_of, shape_of
from tvmlayers.interop.torch.context import Context
from tvmlayers.layers import (
    BatchNormalization,
    LayerNormalization,
    PReLU,
    RMSNormalization,
    UnitNormalization,
)

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import Node


def layer_norm(call: Call, context: Context) -> Plan:
    """LayerNormalization over the last axes."""
    axes, (gamma, beta) = _last_axes(call), _parameters(call, "weight", "bias")

    def make(name: str) -> LayerNormalization:
        layer = LayerNormalization(
            axes,
            call["eps"],
            center=beta is not None,
            scale=gamma is not None,
            dtype=dtype_of(call.first),
            name=name,
        )
        layer.build(_sizes(call.first))
        return layer

    options = ("layer_norm", axes, call["eps"])
    return Plan((call.first,), lambda x: context.normalisation(call, make, options, gamma, beta)(x))


def rms_norm(call: Call, context: Context) -> Plan:
    """RMSNormalization over the last axes; without an epsilon of its own PyTorch takes the dtype's.

    Of a call without a weight the scale is 1.
    """
    import torch

    axes, (scale,) = _last_axes(call), _parameters(call, "weight")
    dtype = call.first.meta["val"].dtype
    epsilon = torch.finfo(dtype).eps if call["eps"] is None else call["eps"]

    def make(name: str) -> RMSNormalization:
        layer = RMSNormalization(axes, epsilon, dtype=str(dtype), name=name)
        layer.build(_sizes(call.first))
        return layer

    options = ("rms_norm", axes, epsilon)
    return Plan((call.first,), lambda x: context.normalisation(call, make, options, scale)(x))


@dataclass(frozen=True)
class Unit:
    """What is divided by its own length over some axes, which is at least `least`."""

    source: Node
    axes: tuple[int, ...]
    least: float

    def fits_dot(self, axis: int) -> bool:
        """Whether it is what Dot does to its inputs along this axis."""
        return self.axes == (axis,) and isclose(self.least, 1e-6)


def unit_of(call: Call, node: Any) -> Unit | None:
    """The Unit that a node is, where it is one, as `torch.nn.functional.normalize` gives it."""
    quotient = call.call_of(node)
    if quotient is None or quotient.operator != "div" or not call.is_symbolic(quotient["other"]):
        return None
    below = call.call_of(quotient["other"])
    while below is not None and below.operator in ("expand", "expand_as"):
        below = call.call_of(below.first)
    least = 0.0
    if below is not None and below.operator in ("clamp", "clamp_min"):
        if below.arguments.get("max") is not None:
            return None
        least, below = below["min"], call.call_of(below.first)
    if below is None or below.operator != "linalg_vector_norm" or below["ord"] != 2:
        return None
    if below.first is not quotient["self"] or not below["keepdim"] or not below["dim"]:
        return None
    rank = len(quotient.shape)
    return Unit(below.first, tuple(sorted(axis % rank for axis in below["dim"])), float(least))


def unit_normalization(call: Call, context: Context) -> Plan | None:
    """UnitNormalization over the last axes; None for what is no division by its own length."""
    unit, rank = unit_of(call, call.node), len(call.shape)
    if unit is None:
        return None
    count = len(unit.axes)
    if unit.axes != tuple(range(rank - count, rank)) or count == rank:
        raise Unsupported("only vectors along the last axes can be brought to length 1")
    axes = -1 if count == 1 else tuple(range(-count, 0))
    # its square, without the noise of squaring a power of ten
    epsilon = float(f"{unit.least**2:.12g}")
    return Plan((unit.source,), lambda x: context.plain(call, UnitNormalization, axes, epsilon)(x))


def turned_back(call: Call, context: Context) -> Plan:
    """What works along axis 1, along another one: of a tensor whose two axes change places."""
    inner, turned, swapped = call.call_of(call.first), turned_before(call), _swapped(call)
    if inner is None or turned is None or swapped is None:
        raise Unsupported("no layer here moves axes")
    return _ALONG_AXIS_1[inner.operator](inner, context, turned.first, swapped)


def turned_before(call: Call) -> Call | None:
    """The call that makes axis 1 of another, for what works along it, where this one undoes it."""
    inner, swapped = call.call_of(call.first), _swapped(call)
    if inner is None or inner.operator not in _ALONG_AXIS_1 or swapped is None:
        return None
    turned = call.call_of(inner.first)
    return turned if turned is not None and _swapped(turned) == swapped else None


def _swapped(call: Call) -> int | None:
    """The axis that changes places with axis 1, where nothing else moves."""
    rank = len(shape_of(call.first))
    if call.operator == "transpose":
        low, high = sorted((call["dim0"] % rank, call["dim1"] % rank))
        return high if low == 1 else None
    order = [axis % rank for axis in call["dims"]] if call.operator == "permute" else []
    moved = [place for place, axis in enumerate(order) if place != axis]
    return moved[1] if len(moved) == 2 and moved[0] == 1 else None


def batch_norm(call: Call, context: Context, x: Any = None, axis: int = 1) -> Plan:
    """BatchNormalization with the statistics that were kept in training.

    x, axis: of the input before its axis 1 was put there.
    """
    if call.arguments.get("training"):
        raise Unsupported("it takes the statistics of each batch; ours are those of training")
    names = ("weight", "bias", "running_mean", "running_var")
    gamma, beta, mean, variance = _parameters(call, *names)
    epsilon, source = call["eps"], call.first if x is None else x

    def make(name: str) -> BatchNormalization:
        layer = BatchNormalization(
            axis=axis if axis < len(call.shape) - 1 else -1,
            epsilon=epsilon,
            center=beta is not None,
            scale=gamma is not None,
            dtype=dtype_of(call.first),
            name=name,
        )
        layer.build(_sizes(source))
        return layer

    options = ("batch_norm", epsilon, len(call.shape), axis)
    tensors = gamma, beta, mean, variance
    return Plan((source,), lambda x: context.normalisation(call, make, options, *tensors)(x))


def flat_prelu(call: Call, context: Context) -> Plan | None:
    """PReLU with a slope for each element, which PyTorch has of flat samples only; else None."""
    inner = call.call_of(call.first)
    flat = inner.call_of(inner.first) if inner is not None and inner.operator == "prelu" else None
    if inner is None or flat is None or flat.operator not in ("flatten", "reshape", "view"):
        return None
    if shape_of(flat.first) != call.shape or len(flat.shape) != 2:
        return None
    return prelu(inner, context, flat.first, None)


def prelu(call: Call, context: Context, x: Any = None, axis: int | None = 1) -> Plan:
    """PReLU with one slope for all, one for each place of an axis, or one for each element.

    x, axis: see `batch_norm`; axis: None for each element of x.
    """
    (slopes,) = _parameters(call, "weight")
    rank = len(call.shape)
    if slopes is None or rank < 2:
        raise Unsupported("its weight depends on the inputs, or its input has no axis after batch")
    source = call.first if x is None else x
    rank, shared = len(shape_of(source)), []
    if axis is None:
        alpha = slopes.reshape(shape_of(source)[1:])
    else:
        shared = [place for place in range(1, rank) if place != axis or slopes.numel() == 1]
        alpha = slopes.reshape([-1 if place == axis else 1 for place in range(1, rank)])

    def make(name: str) -> PReLU:
        layer = PReLU(shared_axes=shared or None, dtype=dtype_of(call.first), name=name)
        layer.build(_sizes(source))
        return layer

    options = ("prelu", rank, axis)
    return Plan((source,), lambda x: context.normalisation(call, make, options, alpha)(x))


_ALONG_AXIS_1 = {"batch_norm": batch_norm, "prelu": prelu}
"""The operators that work along axis 1, which `turned_back` undoes."""


def _last_axes(call: Call) -> Any:
    """The axes that a call normalises over, as our layers take them."""
    count = len(call["normalized_shape"])
    if count == len(call.shape):
        raise Unsupported("it normalises over the batch axis")
    return -1 if count == 1 else tuple(range(-count, 0))


def _sizes(node: Node) -> tuple[int | None, ...]:
    """The shape of a tensor, None where it is free."""
    sizes = [size if isinstance(size, int) else None for size in shape_of(node)]
    return (None, *sizes[1:])


def _parameters(call: Call, *names: str) -> list[Tensor | None]:
    """The constants that these arguments are; None for those that are left out."""
    found = []
    for name in names:
        given = call.arguments.get(name)
        value = None if given is None else call.constant(name)
        if given is not None and value is None:
            raise Unsupported(f"its {name} depends on the inputs")
        if value is not None and str(value.dtype).removeprefix("torch.") != dtype_of(call.first):
            raise Unsupported(f"its {name} has another dtype than its input")
        found.append(value)
    return found
