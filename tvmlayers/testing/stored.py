"""Weights in fewer bits as the reference takes them: widened to float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tvmlayers import layers
from tvmlayers.layers.stored import fewer_bits
from tvmlayers.quantization.rows import TABLE, parts
from tvmlayers.testing.bounds import Array, Bounded, Rounding

if TYPE_CHECKING:
    from torch import Tensor


def table_rows(
    layer: layers.Embedding | layers.EmbeddingBag,
    weights: Mapping[str, Array],
    picked: Array,
    rounding: Rounding,
) -> Bounded:
    """Rows of a layer's table by number, (rows, output_dim), and how far compiled code may be off.

    Numbers of rows of bytes are a product and a sum, each of which may be rounded.
    """
    held = {TABLE: weights[TABLE][picked]}
    if not layer.is_quantized:
        return Bounded.exact(_double(held[TABLE]))
    value = _double(layer.form.floats(held, layer.stored))
    bound = value.new_zeros(value.shape)
    if layer.stored == "int8":
        codes, scales, _ = parts(held[TABLE])
        product = _double(codes * scales[..., None].astype(np.float64))
        bound = rounding.gamma(2) * (product.abs() + value.abs()) + rounding.smallest
    if rounding.beside_floats:
        bound = bound + _double(layer.form.errors(held, layer.stored))
    return Bounded(value, bound)


def kernel_of(layer: layers.Dense, weights: Mapping[str, Array], rounding: Rounding) -> Bounded:
    """A layer's kernel, (in, out), with the errors that its float weights may lie within."""
    if not layer.is_quantized:
        return Bounded.exact(_double(weights["kernel"]))
    value = _double(layer.form.floats(weights, layer.stored))
    if not rounding.beside_floats:
        return Bounded.exact(value)
    errors = _double(layer.form.errors(weights, layer.stored))
    return Bounded(value, errors.expand(value.shape))


def has_fewer_bits(model: layers.Model) -> bool:
    """Whether a layer keeps its weight in fewer bits."""
    return any(fewer_bits(layer) for layer in model.layers)


def is_float_twin(model: layers.Model, of: layers.Model) -> bool:
    """Whether `model` is `of`, a model with weights in fewer bits, as it was before."""
    return has_fewer_bits(of) and not has_fewer_bits(model)


def _double(array: Array) -> Tensor:
    import torch

    return torch.from_numpy(np.array(array, dtype=np.float64))
