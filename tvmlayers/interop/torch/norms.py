"""Rows of the table for normalisations, and for rectifiers with slopes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.torch.calls import Call, Plan, dtype_of, shape_of
from tvmlayers.interop.torch.context import Context
from tvmlayers.layers import BatchNormalization, LayerNormalization, PReLU, RMSNormalization

if TYPE_CHECKING:
    from torch import Tensor


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
        layer.build(_sizes(call))
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
        layer.build(_sizes(call))
        return layer

    options = ("rms_norm", axes, epsilon)
    return Plan((call.first,), lambda x: context.normalisation(call, make, options, scale)(x))


def batch_norm(call: Call, context: Context) -> Plan:
    """BatchNormalization over axis 1, with the statistics that were kept in training."""
    if call.arguments.get("training"):
        raise Unsupported("it takes the statistics of each batch; ours are those of training")
    names = ("weight", "bias", "running_mean", "running_var")
    gamma, beta, mean, variance = _parameters(call, *names)
    epsilon = call["eps"]

    def make(name: str) -> BatchNormalization:
        layer = BatchNormalization(
            axis=1 if len(call.shape) > 2 else -1,
            epsilon=epsilon,
            center=beta is not None,
            scale=gamma is not None,
            dtype=dtype_of(call.first),
            name=name,
        )
        layer.build(_sizes(call))
        return layer

    options = ("batch_norm", epsilon, len(call.shape))
    tensors = gamma, beta, mean, variance
    return Plan((call.first,), lambda x: context.normalisation(call, make, options, *tensors)(x))


def prelu(call: Call, context: Context) -> Plan:
    """PReLU with one slope for all, or one for each place of axis 1."""
    (slopes,) = _parameters(call, "weight")
    rank = len(call.shape)
    if slopes is None or rank < 2:
        raise Unsupported("its weight depends on the inputs, or its input has no axis after batch")
    shared = list(range(1 if slopes.numel() == 1 else 2, rank))
    alpha = slopes.reshape(-1, *(1,) * (rank - 2))

    def make(name: str) -> PReLU:
        layer = PReLU(shared_axes=shared or None, dtype=dtype_of(call.first), name=name)
        layer.build(_sizes(call))
        return layer

    options = ("prelu", rank)
    return Plan((call.first,), lambda x: context.normalisation(call, make, options, alpha)(x))


def _last_axes(call: Call) -> Any:
    """The axes that a call normalises over, as our layers take them."""
    count = len(call["normalized_shape"])
    if count == len(call.shape):
        raise Unsupported("it normalises over the batch axis")
    return -1 if count == 1 else tuple(range(-count, 0))


def _sizes(call: Call) -> tuple[int | None, ...]:
    """The shape of the input, None where it is free."""
    sizes = [size if isinstance(size, int) else None for size in shape_of(call.first)]
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
