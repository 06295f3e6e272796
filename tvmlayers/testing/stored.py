"""Weights in fewer bits as the reference takes them: widened to float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tvmlayers import layers
from tvmlayers.layers.stored import fewer_bits
from tvmlayers.quantization.kinds import Kind
from tvmlayers.quantization.rows import CODED, TABLE, parts
from tvmlayers.testing.bounds import Array, Bounded, Rounding

if TYPE_CHECKING:
    from torch import Tensor

# Of the largest magnitude of a row, by the digits that its numbers have: half of 1 / 127, of 1 /
# 32,639 or of the power of two that is no smaller than 1 / 8,355,711, and what float32 rounds on
# the way.
_DIGIT_ERRORS = {1: 0.5 / 127 + 2.0**-22, 2: 0.5 / 32_639 + 2.0**-22, 3: 1.004 / 2**23}


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
    if layer.stored in CODED:
        codes, scales, _ = parts(held[TABLE], layer.stored)
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


def code_roundings(layer: layers.Dense) -> int:
    """Roundings that a product with a kernel in fewer bits has beside those of floats: by its
    scale, and where digits of x are multiplied with codes, of the sum of each digit as a float and
    of what it is added to. Digits of small numbers are up to three times as large as those in
    all."""
    kind = Kind.of(layer.stored)
    return 1 + 3 * kind.digits if kind.is_codes else int(layer.is_quantized)


def digit_errors(layer: layers.Dense, x: Bounded) -> Tensor:
    """How far the numbers of each row of x may be from those that codes are multiplied with, (...,
    1): half of the row's scale (see `codegen.cpu.digits`)."""
    kind = Kind.of(layer.stored)
    largest = (x.value.abs() + x.bound).nan_to_num(nan=0.0, posinf=0.0)
    largest = largest.amax(-1, keepdim=True) if largest.shape[-1] else largest.sum(-1, keepdim=True)
    return largest * (_DIGIT_ERRORS[kind.digits] if kind.is_codes else 0.0)


def has_fewer_bits(model: layers.Model) -> bool:
    """Whether a layer keeps its weight in fewer bits."""
    return any(fewer_bits(layer) for layer in model.layers)


def is_float_twin(model: layers.Model, of: layers.Model) -> bool:
    """Whether `model` is `of`, a model with weights in fewer bits, as it was before."""
    return has_fewer_bits(of) and not has_fewer_bits(model)


def _double(array: Array) -> Tensor:
    import torch

    return torch.from_numpy(np.array(array, dtype=np.float64))
