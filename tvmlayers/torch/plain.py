"""What modules and operators share: PyTorch's own computation, and when compiled code may do it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn import functional

from tvmlayers.interop.torch.activations import ACTIVATIONS

FLOATS = (torch.float32, torch.float64)
INDICES = (torch.int32, torch.int64)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """activation(input @ weight.T + bias), by PyTorch."""
    return ACTIVATIONS[activation](functional.linear(input, weight, bias))


def bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None,
    per_sample_weights: Tensor | None,
    mode: str,
    include_last_offset: bool,
    padding_idx: int | None,
) -> Tensor:
    """`torch.nn.functional.embedding_bag` of these arguments."""
    return functional.embedding_bag(
        input,
        weight,
        offsets,
        mode=mode,
        per_sample_weights=per_sample_weights,
        include_last_offset=include_last_offset,
        padding_idx=padding_idx,
    )


def is_eager() -> bool:
    """Whether a call computes: not traced, not transformed by torch.func, not under autocast."""
    return not (
        torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state()
        or torch._C._functorch.peek_interpreter_stack()
        or torch.is_autocast_enabled("cpu")
    )


def is_traceable(floats: Iterable[Tensor | None], *indices: Tensor | None) -> bool:
    """Whether an operator of `tvmlayers` takes the place of a call in a graph of these tensors."""
    numbers = [tensor for tensor in floats if tensor is not None]
    tensors = [*numbers, *(tensor for tensor in indices if tensor is not None)]
    return (
        all(tensor.device.type == "cpu" for tensor in tensors)
        and all(tensor.dtype in FLOATS for tensor in numbers)
        and not torch.is_autocast_enabled("cpu")
        and not needs_grad(numbers)
    )


def needs_grad(tensors: Iterable[Tensor | None]) -> bool:
    """Whether autograd is to follow a computation with these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def is_plain(tensor: Tensor, dtypes: Iterable[torch.dtype]) -> bool:
    """Whether compiled code can read a tensor where it lies."""
    return bool(
        type(tensor) is Tensor
        and tensor.is_cpu
        and tensor.dtype in dtypes
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and not tensor.is_neg()
    )


def is_weight(weight: Tensor | None, dtype: torch.dtype | None = None) -> TypeGuard[Tensor]:
    """Whether a parameter can be packed. dtype: of the other parameter, if there is one."""
    return bool(
        isinstance(weight, Tensor)
        and type(weight) in (Tensor, torch.nn.Parameter)
        and weight.is_cpu
        and (weight.dtype is dtype or (dtype is None and weight.dtype in FLOATS))
        and weight.layout is torch.strided
        and weight.is_contiguous()
        and weight.numel()
        and not weight.is_inference()  # which has no version counter
    )
