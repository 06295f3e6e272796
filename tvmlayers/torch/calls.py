"""Calls of compiled code with PyTorch's tensors, for modules and operators alike.

Each gives None where compiled code does not do it, so that PyTorch does: for tensors that it cannot
read where they lie, and for arguments that it refuses, for which PyTorch has errors of its own.
Results of tables have no gradient yet; see `gradients`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from tvmlayers.errors import TvmLayersError
from tvmlayers.torch import plain
from tvmlayers.torch.kernels import (
    Kernel,
    Packed,
    bag_kernel,
    embedding_kernel,
    linear_kernel,
    pack,
)


class Keeper(Protocol):
    """The holders of packed weights between calls."""

    _packed: Packed | None


def linear(
    keeper: Keeper,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str,
    target: str,
) -> Tensor | None:
    """activation(x @ weight.T + bias), x: (*, in) float32 or float64."""
    if (
        not plain.is_weight(weight)
        or (bias is not None and not plain.is_weight(bias, weight.dtype))
        or not plain.is_plain(x, (weight.dtype,))
        or plain.needs_grad((x, weight, bias))
    ):
        return None
    weights = (weight,) if bias is None else (weight, bias)
    kernel = linear_kernel(*weight.shape, bias is not None, weight.dtype, activation, target)
    return _call(keeper, kernel, weights, (x,), {})


def embedding(keeper: Keeper, indices: Tensor, weight: Tensor | None, target: str) -> Tensor | None:
    """Rows of weight (rows, columns), indices: int32 or int64 of any shape."""
    if not plain.is_weight(weight) or not plain.is_plain(indices, plain.INDICES):
        return None
    kernel = embedding_kernel(*weight.shape, weight.dtype, target)
    return _call(keeper, kernel, (weight,), (indices,), {})


def bag(
    keeper: Keeper,
    indices: Tensor,
    weight: Tensor | None,
    offsets: Tensor | None,
    per_sample_weights: Tensor | None,
    mode: str,
    include_last_offset: bool,
    padding_idx: int | None,
    target: str,
) -> Tensor | None:
    """Bags of rows, (batch, length) indices, or (total,) with offsets."""
    if not plain.is_weight(weight) or not plain.is_plain(indices, plain.INDICES):
        return None
    inputs, named = [indices], {}
    if offsets is not None:
        if not plain.is_plain(offsets, (indices.dtype,)):
            return None
        inputs.append(offsets)
    if per_sample_weights is not None:
        if mode != "sum" or not plain.is_plain(per_sample_weights, (weight.dtype,)):
            return None
        named["per_sample_weights"] = per_sample_weights.detach()
    kernel = bag_kernel(*weight.shape, weight.dtype, mode, include_last_offset, padding_idx, target)
    return _call(keeper, kernel, (weight,), inputs, named)


def _call(
    keeper: Keeper,
    kernel: Kernel,
    weights: tuple[Tensor, ...],
    inputs: Sequence[Tensor],
    named: Mapping[str, Tensor],
) -> Tensor | None:
    packed = keeper._packed
    if packed is None or not packed.holds(kernel, weights):
        packed = keeper._packed = pack(kernel, weights)
    if packed.model is None:
        return None
    try:
        result: Tensor = packed.model(*inputs, **named)
    except TvmLayersError:
        return None
    return result
