"""Gradients of tables that compiled code reads, on the way back through autograd.

The gradient of a table is the rows of the result's, each added to the rows that its indices name:
dense, or not there at all where the table follows an optimiser. Sparse ones PyTorch computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from tvmlayers.errors import GradientError
from tvmlayers.torch.following import Trained, follow
from tvmlayers.training.optimizers import SGD


@dataclass(frozen=True)
class Lookup:
    """How a result was looked up. mode: of a bag, None for rows as they are; skipped: the index
    that takes no gradient; trained: the module whose table follows its own optimiser."""

    target: str
    skipped: int | None = None
    mode: str | None = None
    include_last_offset: bool = False
    trained: Trained | None = None


def looked_up(
    made: Tensor,
    weight: Tensor,
    factors: Tensor | None,
    indices: Tensor,
    offsets: Tensor | None,
    lookup: Lookup,
) -> Tensor:
    """`made`, what compiled code found in a table, with its gradient."""
    result: Tensor = _Lookup.apply(weight, factors, indices, offsets, (made,), lookup)
    return result


class _Lookup(Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        factors: Tensor | None,
        indices: Tensor,
        offsets: Tensor | None,
        made: tuple[Tensor],
        lookup: Lookup,
    ) -> Tensor:
        table = weight if factors is not None and factors.requires_grad else None
        ctx.save_for_backward(indices, offsets, factors, table)
        ctx.shape, ctx.lookup = weight.shape, lookup
        return made[0]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        needs_table, needs_factors, *_ = ctx.needs_input_grad
        indices, offsets, factors, table = ctx.saved_tensors
        lookup: Lookup = ctx.lookup
        with torch.no_grad():
            bags = _bags(indices, offsets, lookup)
            by_factor = None
            if needs_factors:
                by_factor = _of_factors(dy, table, indices, bags, lookup).view(factors.shape)
            by_row = None
            if needs_table:
                flat = indices.reshape(-1)
                rows = _rows(dy, indices, offsets, factors, bags, lookup)
                by_row = _of_table(flat, rows, dy, ctx.shape, lookup)
        made = once(lookup.mode, dy, by_row, by_factor)
        return (*made, None, None, None, None)


def _bags(indices: Tensor, offsets: Tensor | None, lookup: Lookup) -> Tensor | None:
    """The bag of each index, where bags are told by offsets."""
    if offsets is None:
        return None
    begins = offsets[:-1] if lookup.include_last_offset else offsets
    ends = torch.cat([begins[1:], begins.new_tensor([len(indices)])])
    bags = torch.arange(len(begins))
    return torch.repeat_interleave(bags, ends - begins, output_size=len(indices))


def _rows(
    dy: Tensor,
    indices: Tensor,
    offsets: Tensor | None,
    factors: Tensor | None,
    bags: Tensor | None,
    lookup: Lookup,
) -> Tensor:
    """Rows of the gradient, of which each serves as many indices, one after another."""
    dy = dy.contiguous()
    if lookup.mode is None:
        return dy.view(indices.numel(), dy.shape[-1])
    if lookup.mode == "mean":
        dy = dy / _counts(indices, bags, dy, lookup)
    if bags is not None:
        dy = dy.index_select(0, bags)
    if factors is not None:
        per_index = dy if bags is not None else dy.unsqueeze(1)
        return (per_index * factors.unsqueeze(-1)).reshape(-1, dy.shape[-1])
    return dy


def _counts(indices: Tensor, bags: Tensor | None, dy: Tensor, lookup: Lookup) -> Tensor:
    """How many indices each bag is the mean of, at least 1: (bags, 1)."""
    counted = torch.ones_like(indices) if lookup.skipped is None else indices != lookup.skipped
    if bags is None:
        return _at_least_one(counted.sum(1), dy)
    return _at_least_one(torch.bincount(bags, counted, minlength=len(dy)), dy)


def _at_least_one(counts: Tensor, dy: Tensor) -> Tensor:
    return counts.clamp(min=1).to(dy.dtype).unsqueeze(1)


def _of_factors(
    dy: Tensor, table: Tensor, indices: Tensor, bags: Tensor | None, lookup: Lookup
) -> Tensor:
    """The gradient of the weights of samples: rows of the table times rows of dy."""
    by_bag = dy.unsqueeze(1) if bags is None else dy.index_select(0, bags)
    products = (table[indices] * by_bag).sum(-1)
    if lookup.skipped is not None:
        products = products.masked_fill(indices == lookup.skipped, 0)
    return products


def _of_table(
    indices: Tensor, rows: Tensor, dy: Tensor, shape: torch.Size, lookup: Lookup
) -> Tensor | None:
    """The gradient of the table; None where the table has followed it."""
    if lookup.trained is not None:
        lookup.trained._update(indices, rows, lookup.skipped)
        return None
    dense = dy.new_zeros(shape)
    # Of rate -1: each row is added.
    follow(dense, indices, rows, lookup.skipped, lookup.target, SGD(), (), -1.0, 1)
    return dense


def once(what: object, dy: Tensor, *gradients: Tensor | None) -> list[Tensor | None]:
    """Gradients that refuse to be differentiated themselves, where autograd is to follow them."""
    if not torch.is_grad_enabled() or not dy.requires_grad:
        return list(gradients)
    return [None if each is None else _Once.apply(each, dy, what) for each in gradients]


class _Once(Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, dy: Tensor, what: object) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise GradientError(
            "the gradients of compiled layers cannot be differentiated again: call backward() or "
            "torch.autograd.grad without create_graph=True, or take PyTorch's own layer "
            "(torch.nn.Embedding, EmbeddingBag, Linear), which has the same arguments and "
            "state dict"
        )
