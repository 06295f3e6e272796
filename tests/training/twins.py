"""The same models and optimisers in PyTorch, for steps to be compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

import tvmlayers as tl

F = torch.nn.functional
Parameters = dict[str, torch.Tensor]

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "linear": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda x: (x + 3).clamp(0, 6) / 6,  # PyTorch's has 1/6 in float32
    "tanh": torch.tanh,
    "silu": F.silu,
    "hard_silu": F.hardswish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "mish": F.mish,
    "exponential": torch.exp,
    "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
}


def _rescaled(layer: Any, inputs: list[torch.Tensor]) -> torch.Tensor:
    scale, offset = (
        torch.as_tensor(each, dtype=torch.float64) for each in (layer.scale, layer.offset)
    )
    return inputs[0] * scale + offset


def _of_one_rank(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Axes of length 1 after the first, where a tensor has fewer than another."""
    rank = max(each.ndim for each in tensors)
    return [
        each.reshape(each.shape[0], *(1,) * (rank - each.ndim), *each.shape[1:]) for each in tensors
    ]


MERGES: dict[str, Callable[[Any, list[torch.Tensor]], torch.Tensor]] = {
    "Add": lambda _, x: sum(_of_one_rank(x)[1:], _of_one_rank(x)[0]),
    "Subtract": lambda _, x: _of_one_rank(x)[0] - _of_one_rank(x)[1],
    "Multiply": lambda _, x: _of_one_rank(x)[0] * _of_one_rank(x)[1],
    "Average": lambda _, x: sum(_of_one_rank(x)[1:], _of_one_rank(x)[0]) / len(x),
    "Maximum": lambda _, x: torch.maximum(*_of_one_rank(x)),
    "Minimum": lambda _, x: torch.minimum(*_of_one_rank(x)),
    "LeakyReLU": lambda layer, x: F.leaky_relu(x[0], layer.negative_slope),
    "ELU": lambda layer, x: F.elu(x[0], layer.alpha),
    "Rescaling": _rescaled,
}


def parameters_of(step: tl.TrainingStep, dtype: torch.dtype = torch.float64) -> Parameters:
    """The weights of a step as leaves that gradients are made for."""
    return {
        name: torch.tensor(value, dtype=dtype, requires_grad=True)
        for name, value in step.weights().items()
    }


def forward(model: tl.Model, weights: Mapping[str, torch.Tensor], *given: Any) -> torch.Tensor:
    """What the model computes, in PyTorch, but for its last activation where it is a softmax or a
    sigmoid: logits."""
    graph = model.graph
    values = {
        id(tensor): torch.as_tensor(np.asarray(value))
        for tensor, value in zip(graph.inputs, given, strict=True)
    }
    for node in graph.nodes:
        inputs = [values[id(tensor)] for tensor in node.inputs]
        is_last = node.output is graph.outputs[0]
        values[id(node.output)] = _layer(node.layer, weights, inputs, is_last, node)
    return values[id(graph.outputs[0])]


def _layer(
    layer: Any,
    weights: Mapping[str, torch.Tensor],
    inputs: list[torch.Tensor],
    last: bool,
    node: Any,
) -> torch.Tensor:
    x = inputs[0]
    if isinstance(layer, tl.Dense):
        y = x @ weights[f"{layer.name}/kernel"]
        y = y + weights[f"{layer.name}/bias"] if layer.use_bias else y
        return y if last and _is_loss(layer) else ACTIVATIONS[layer.activation](y)
    if isinstance(layer, tl.Activation):
        return x if last and _is_loss(layer) else ACTIVATIONS[layer.activation](x)
    if isinstance(layer, tl.Embedding):
        return F.embedding(x, weights[f"{layer.name}/embeddings"], layer.padding_idx)
    if isinstance(layer, tl.EmbeddingBag):
        return _bag(layer, weights[f"{layer.name}/embeddings"], inputs)
    if isinstance(layer, tl.GlobalAveragePooling1D):
        mask = node.inputs[0].mask_of
        if mask is None:
            return x.mean(1)
        raise AssertionError("masked means are written out by the tests that have some")
    if isinstance(layer, tl.GlobalMaxPooling1D):
        return x.amax(1)
    if isinstance(layer, tl.PReLU):
        return torch.where(x < 0, x * weights[f"{layer.name}/alpha"], x)
    if isinstance(layer, tl.BatchNormalization):
        return _batch_normalization(layer, weights, x)
    if isinstance(layer, tl.Concatenate):
        return torch.cat(inputs, layer.axis)
    if isinstance(layer, tl.DotInteraction):
        rows, columns = torch.tril_indices(x.shape[1], x.shape[1], -1)
        return (x @ x.mT)[:, rows, columns]
    if isinstance(layer, tl.Dot) and max(each.ndim for each in inputs) > 2:
        return _dot_of_matrices(layer, inputs)
    if isinstance(layer, tl.Dot):
        if layer.normalize:
            return F.cosine_similarity(*inputs)[:, None]
        return (x * inputs[1]).sum(1, keepdim=True)
    if isinstance(layer, tl.LayerNormalization):
        own = [weights[f"{layer.name}/{each}"] for each in ("gamma", "beta")]
        return F.layer_norm(x, (layer.width,), *own, eps=layer.epsilon)
    if isinstance(layer, tl.RMSNormalization):
        own = weights[f"{layer.name}/scale"]
        return F.rms_norm(x, (layer.width,), own, eps=layer.epsilon)
    if isinstance(layer, tl.UnitNormalization):
        return F.normalize(x)
    if type(layer).__name__ in MERGES:
        return MERGES[type(layer).__name__](layer, inputs)
    if isinstance(layer, tl.Flatten):
        return x.flatten(1)
    if isinstance(layer, tl.Reshape):
        return x.reshape(x.shape[0], *layer.target_shape)
    raise AssertionError(f"no twin of {type(layer).__name__}")


def _bag(layer: Any, table: torch.Tensor, inputs: list[torch.Tensor]) -> torch.Tensor:
    if layer.mode == "min":
        return -F.embedding_bag(inputs[0], -table, mode="max", padding_idx=layer.padding_idx)
    if len(inputs) == 1:
        return F.embedding_bag(inputs[0], table, mode=layer.mode, padding_idx=layer.padding_idx)
    ids, weight = inputs
    if layer.padding_idx is not None:
        weight = weight * (ids != layer.padding_idx)
    total = (F.embedding(ids, table, layer.padding_idx) * weight[..., None]).sum(1)
    return total / weight.sum(1, keepdim=True) if layer.mode == "mean" else total


def _dot_of_matrices(layer: Any, inputs: list[torch.Tensor]) -> torch.Tensor:
    """The contracted axis last, vectors as matrices of one."""
    moved = [each.movedim(axis, -1) for each, axis in zip(inputs, layer.axes, strict=True)]
    left, right = (each[:, None] if each.ndim == 2 else each for each in moved)
    if layer.normalize:
        left, right = F.normalize(left, dim=-1), F.normalize(right, dim=-1)
    made = left @ right.mT
    for place, each in ((2, moved[1]), (1, moved[0])):
        made = made.squeeze(place) if each.ndim == 2 else made
    return made


def _batch_normalization(
    layer: Any, weights: Mapping[str, torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    """By the statistics of the batch, or where it is frozen by the moving ones."""
    own = {name: weights.get(f"{layer.name}/{name}") for name in ("gamma", "beta")}
    moving = [weights[f"{layer.name}/moving_{name}"].detach() for name in ("mean", "variance")]
    moved = x.movedim(layer.axis, 1)
    made = F.batch_norm(
        moved,
        *([None, None] if layer.trainable else moving),
        own["gamma"],
        own["beta"],
        training=layer.trainable,
        eps=layer.epsilon,
    )
    return made.movedim(1, layer.axis)


def _is_loss(layer: Any) -> bool:
    return layer.activation in ("softmax", "sigmoid")
