"""The compiled layers as operators of PyTorch, which `torch.compile` and `torch.export` keep whole.

They take the weights as PyTorch keeps them. What was packed for a weight is kept as long as its
memory is there. On other devices, and for what compiled code does not take, PyTorch computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tvmlayers.torch import calls, plain
from tvmlayers.torch.kernels import Packed

SCHEMAS = {
    "linear": "(Tensor input, Tensor weight, Tensor? bias, str activation, str target) -> Tensor",
    "embedding": "(Tensor indices, Tensor weight, str target) -> Tensor",
    "embedding_bag": (
        "(Tensor indices, Tensor weight, Tensor? offsets, Tensor? per_sample_weights, str mode, "
        "bool include_last_offset, int? padding_idx, str target) -> Tensor"
    ),
}


class _Kept:
    """The packed weights of one place in memory."""

    def __init__(self) -> None:
        self._packed: Packed | None = None


_kept: dict[tuple[Any, ...], _Kept] = {}


def _keeper(*form: Any) -> _Kept:
    """The holder of the weights packed from these addresses; those of freed memory are dropped."""
    found = _kept.get(form)
    if found is None:
        for key, kept in list(_kept.items()):
            if kept._packed is None or kept._packed.is_gone():
                _kept.pop(key, None)
        found = _kept.setdefault(form, _Kept())
    return found


def _linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, activation: str, target: str
) -> Tensor:
    place = 0 if bias is None else bias.data_ptr()
    keeper = _keeper(weight.data_ptr(), place, activation, target)
    made = calls.linear(keeper, input.contiguous(), weight, bias, activation, target)
    return plain.linear(input, weight, bias, activation) if made is None else made


def _embedding(indices: Tensor, weight: Tensor, target: str) -> Tensor:
    keeper = _keeper(weight.data_ptr(), target)
    made = calls.embedding(keeper, indices.contiguous(), weight, target)
    return functional.embedding(indices, weight) if made is None else made


def _bag(
    indices: Tensor,
    weight: Tensor,
    offsets: Tensor | None,
    per_sample_weights: Tensor | None,
    mode: str,
    include_last_offset: bool,
    padding_idx: int | None,
    target: str,
) -> Tensor:
    options = mode, include_last_offset, padding_idx
    keeper = _keeper(weight.data_ptr(), *options, target)
    made = calls.bag(
        keeper,
        indices.contiguous(),
        weight,
        None if offsets is None else offsets.contiguous(),
        None if per_sample_weights is None else per_sample_weights.contiguous(),
        *options,
        target,
    )
    if made is not None:
        return made
    return plain.bag(indices, weight, offsets, per_sample_weights, *options)


def _plain_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, activation: str, _target: str
) -> Tensor:
    return plain.linear(input, weight, bias, activation)


def _plain_embedding(indices: Tensor, weight: Tensor, _target: str) -> Tensor:
    result: Tensor = functional.embedding(indices, weight)
    return result


def _plain_bag(*arguments: Any) -> Tensor:
    return plain.bag(*arguments[:-1])


def _fake_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, activation: str, target: str
) -> Tensor:
    if input.shape[-1] != weight.shape[1]:  # fixes a free length, as PyTorch's own does
        raise RuntimeError(
            f"linear expected (*, {weight.shape[1]}), got an input of shape {tuple(input.shape)}"
        )
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


def _fake_embedding(indices: Tensor, weight: Tensor, target: str) -> Tensor:
    return weight.new_empty((*indices.shape, weight.shape[1]))


def _fake_bag(indices: Tensor, weight: Tensor, offsets: Tensor | None, *rest: Any) -> Tensor:
    bags = indices.shape[0] if offsets is None else offsets.shape[0] - int(rest[2])
    return weight.new_empty((bags, weight.shape[1]))


def _differentiable(name: str, computed: Callable[..., Tensor]) -> None:
    """Derivatives by PyTorch's own computation, made again in the backward pass."""

    def remember(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        ctx.save_for_backward(*tensors)
        ctx.others = [None if isinstance(value, Tensor) else (value,) for value in inputs]

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        leaves = [
            next(saved).detach().requires_grad_(needed) if other is None else other[0]
            for other, needed in zip(ctx.others, ctx.needs_input_grad, strict=True)
        ]
        with torch.enable_grad():
            result = computed(*leaves)
        wanted = [leaf for leaf, needed in zip(leaves, ctx.needs_input_grad, strict=True) if needed]
        grads = iter(torch.autograd.grad(result, wanted, grad))
        return tuple(next(grads) if needed else None for needed in ctx.needs_input_grad)

    torch.library.register_autograd(name, backward, setup_context=remember)


def _register() -> None:
    kinds: dict[str, tuple[Callable[..., Tensor], ...]] = {
        "linear": (_linear, _plain_linear, _fake_linear),
        "embedding": (_embedding, _plain_embedding, _fake_embedding),
        "embedding_bag": (_bag, _plain_bag, _fake_bag),
    }
    for kind, (compiled, computed, fake) in kinds.items():
        name = f"tvmlayers::{kind}"
        torch.library.define(name, SCHEMAS[kind])
        torch.library.impl(name, "cpu")(compiled)
        torch.library.impl(name, "default")(computed)
        torch.library.register_fake(name)(fake)
        _differentiable(name, computed)


_register()
