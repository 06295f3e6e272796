"""Embedding and EmbeddingBag in PyTorch; only the rows in use become float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tvmlayers import layers
from tvmlayers.testing.bounds import Array, Bounded, Rounding
from tvmlayers.testing.stored import table_rows

if TYPE_CHECKING:
    from torch import Tensor


def embedding(
    layer: layers.Embedding,
    weights: Mapping[str, Array],
    inputs: Mapping[str, Bounded],
    rounding: Rounding,
) -> Bounded:
    """table[indices], to the last bit but where numbers are made of codes."""
    return rows_of(layer, weights, inputs["indices"].value, rounding)


def rows_of(
    layer: layers.Embedding | layers.EmbeddingBag,
    weights: Mapping[str, Array],
    indices: Tensor,
    rounding: Rounding,
) -> Bounded:
    """(*indices.shape, output_dim) float64; the layer's policy for indices outside the table."""
    picked = table_rows(
        layer, weights, indices.clamp(0, layer.input_dim - 1).numpy().reshape(-1), rounding
    )
    shape = (*indices.shape, layer.output_dim)
    value, bound = picked.value.reshape(shape), picked.bound.reshape(shape)
    if layer.oob == "clip":
        return Bounded(value, bound)
    inside = (indices >= 0) & (indices < layer.input_dim)
    if layer.oob == "zero":
        return Bounded(value * inside.unsqueeze(-1), bound * inside.unsqueeze(-1))
    assert inside.all(), "the reference takes indices that the layer takes"
    return Bounded(value, bound)


def embedding_bag(
    layer: layers.EmbeddingBag,
    weights: Mapping[str, Array],
    inputs: Mapping[str, Bounded],
    rounding: Rounding,
) -> Bounded:
    """The reduction of each bag; an empty one, or one of nothing but padding, is zero."""
    import torch

    indices = inputs["indices"].value
    factors = inputs.get("per_sample_weights") or Bounded.exact(
        torch.ones(indices.shape, dtype=torch.float64)
    )
    parts = [indices, factors.value, factors.bound]
    if "offsets" in inputs:
        parts = [padded(part, bag_lengths(layer, inputs["offsets"].value, part)) for part in parts]
        counted = padded(
            torch.ones_like(indices), bag_lengths(layer, inputs["offsets"].value, indices)
        )
    else:
        counted = torch.ones_like(indices)
    indices, factor, factor_bound = parts
    if layer.padding_idx is not None:
        counted = counted * (indices != layer.padding_idx)
    present = counted.bool().unsqueeze(-1)
    picked = rows_of(layer, weights, torch.where(present.squeeze(-1), indices, 0), rounding)
    rows, size = picked.value, int(indices.shape[1])
    if layer.mode in ("max", "min"):
        off = picked.bound.masked_fill(~present, 0.0)
        most = off.amax(1) if size else _extreme(layer.mode, off, present)
        return Bounded(_extreme(layer.mode, rows, present), most)
    share = torch.where(present, factor.unsqueeze(-1), 0.0)
    share_bound = torch.where(present, factor_bound.unsqueeze(-1), 0.0)
    value = (share * rows).sum(1)
    passed_on = rounding.added(share_bound * rows, (1,)).squeeze(1)
    passed_on = passed_on + ((share.abs() + share_bound) * picked.bound).sum(1)
    bound = rounding.gamma(size + 1) * (share * rows).abs().sum(1) + passed_on
    if layer.mode == "sum":
        return rounding.stored(Bounded(value, bound))
    total, passed_on = share.sum(1), rounding.added(share_bound, (1,)).squeeze(1)
    total_bound = rounding.gamma(size) * share.abs().sum(1) + passed_on
    empty = ~present.any(1)
    total, total_bound = total.masked_fill(empty, 1.0), total_bound.masked_fill(empty, 0.0)
    mean = value / total
    moved = (bound + mean.abs() * total_bound) / (total.abs() - total_bound).clamp(min=0.0)
    return rounding.stored(Bounded(mean, moved + rounding.eps * mean.abs()))


def bag_lengths(layer: layers.EmbeddingBag, offsets: Tensor, indices: Tensor) -> Tensor:
    """How many indices each bag has."""
    import torch

    if not layer.include_last_offset:
        offsets = torch.cat([offsets, torch.tensor([indices.shape[0]])])
    return offsets.diff()


def padded(flat: Tensor, lengths: Tensor) -> Tensor:
    """(bags, longest) out of (total,), zeros behind the shorter bags."""
    import torch

    pieces = flat[: int(lengths.sum())].split(lengths.tolist())
    if not pieces:
        return flat.new_zeros((0, 0))
    return torch.nn.utils.rnn.pad_sequence(list(pieces), batch_first=True)


def _extreme(mode: str, rows: Tensor, present: Tensor) -> Tensor:
    """The largest or smallest row of each bag, column by column; bags of nothing are zero."""
    if rows.shape[1] == 0:
        return rows.new_zeros((rows.shape[0], rows.shape[2]))
    least = float("-inf") if mode == "max" else float("inf")
    kept = rows.masked_fill(~present, least)
    result = kept.amax(1) if mode == "max" else kept.amin(1)
    return result.masked_fill(~present.any(1), 0.0)
