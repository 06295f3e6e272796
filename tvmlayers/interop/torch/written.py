"""Our layers as PyTorch's: each row is PyTorch's own code, which `torch.fx` traces into a graph.

A layer with weights is a module under the layer's name, as far as PyTorch allows that name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from math import sqrt
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from tvmlayers.dtypes import numpy_dtype
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.exporting import Row, Use, need
from tvmlayers.interop.torch.activations import ACTIVATIONS
from tvmlayers.layers.base import Array, Layer

Proxy: TypeAlias = fx.Proxy

BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
"""By the number of axes."""


class Writer:
    """A graph with its modules. parts: modules and tensors by path."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.parts: dict[str, Any] = {}
        self._tracer = fx.proxy.GraphAppendingTracer(self.graph)
        self._paths: dict[int, str] = {}

    def input(self, name: str) -> Proxy:
        return self._proxy(self.graph.placeholder(name))

    def rows(self) -> Mapping[str, Row[Proxy]]:
        """The rows of the table, which write into this graph."""

        def bound(row: Callable[[Writer, Use[Proxy]], Proxy]) -> Row[Proxy]:
            return lambda use: row(self, use)

        return {kind: bound(row) for kind, row in ROWS.items()}

    def module(self, layer: Layer, make: Callable[[], nn.Module]) -> Callable[..., Proxy]:
        """What calls the module of a layer, which is made the first time."""
        path = self._path(layer)
        if path not in self.parts:
            self.parts[path] = make()

        def call(*tensors: Proxy, **named: Proxy) -> Proxy:
            nodes = {name: tensor.node for name, tensor in named.items()}
            return self._proxy(self.graph.call_module(path, tuple(t.node for t in tensors), nodes))

        return call

    def tensor(self, layer: Layer, name: str, value: Tensor | None = None) -> Proxy:
        """A tensor of a layer: a buffer of this value, or what its module has under that name."""
        path = f"{self._path(layer)}.{name}"
        if value is None:
            value = getattr(self.parts[self._path(layer)], name)
        self.parts[path] = value
        return self._proxy(self.graph.get_attr(path))

    def _proxy(self, node: fx.Node) -> Proxy:
        return fx.Proxy(node, self._tracer)

    def _path(self, layer: Layer) -> str:
        """The layer's name; parts of it that a module cannot have get underscores."""
        if id(layer) not in self._paths:
            words = [_attribute(word) for word in layer.name.split(".")]
            while ".".join(words) in self._paths.values():
                words[-1] += "_"
            self._paths[id(layer)] = ".".join(words)
        return self._paths[id(layer)]


def _attribute(word: str) -> str:
    """word, or with underscores where a module has an attribute of that name."""
    while not word or any(hasattr(module, word) for module in _MODULES):
        word += "_"
    return word


_MODULES = (
    fx.GraphModule(nn.Module(), fx.Graph()),
    *(nn.BatchNorm1d(1), nn.Dropout(), nn.EmbeddingBag(1, 1, device="meta")),
    *(nn.LayerNorm(1), nn.Linear(1, 1, device="meta")),
)
"""One of each kind, for the names of their attributes."""


def tensor_of(array: Array) -> Tensor:
    """A copy of a weight, bit by bit; NumPy's bfloat16 is none of PyTorch's own."""
    if array.dtype == numpy_dtype("bfloat16"):
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def dtype_of(layer: Layer) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, layer.dtype)
    return dtype


def filled(module: nn.Module, **weights: Array | None) -> nn.Module:
    """A module of the meta device with these parameters or buffers; None for one that goes."""
    for name, array in weights.items():
        value = None if array is None else tensor_of(array)
        if name in module._buffers:
            module.register_buffer(name, value)
        else:
            module.register_parameter(name, None if value is None else nn.Parameter(value))
    return module


def dense(writer: Writer, use: Use[Proxy]) -> Proxy:
    layer, weights = use.layer, use.layer.weights

    def make() -> nn.Module:
        shape = (layer.input_dim, layer.units, layer.use_bias)
        linear = nn.Linear(*shape, device="meta", dtype=dtype_of(layer))
        kernel = np.ascontiguousarray(weights["kernel"].T)
        return filled(linear, weight=kernel, bias=weights.get("bias"))

    made: Proxy = ACTIVATIONS[layer.activation](writer.module(layer, make)(use.first))
    return made


def _indices(use: Use[Proxy], role: str = "indices") -> Proxy:
    """Indices as PyTorch's tables take them; for oob='clip' the nearest in the table."""
    layer, indices = use.layer, use.by_role[role]
    need("oob", layer.oob, "raise", "clip", "unchecked")
    if role == "indices" and layer.oob == "clip":
        indices = indices.clamp(0, layer.input_dim - 1)
    return indices if _is_wide(use) else indices.to(torch.int64)


def _is_wide(use: Use[Proxy]) -> bool:
    """Whether indices, and offsets, are of one dtype that PyTorch takes."""
    roles = zip(use.node.roles, use.node.inputs, strict=True)
    dtypes = {tensor.dtype for role, tensor in roles if role != "per_sample_weights"}
    return len(dtypes) == 1 and dtypes <= {"int32", "int64"}


def embedding(writer: Writer, use: Use[Proxy]) -> Proxy:
    layer = use.layer

    def make() -> nn.Module:
        shape = (layer.input_dim, layer.output_dim, layer.padding_idx)
        table = nn.Embedding(*shape, device="meta", dtype=dtype_of(layer))
        return filled(table, weight=layer.weights["embeddings"])

    return writer.module(layer, make)(_indices(use))


def embedding_bag(writer: Writer, use: Use[Proxy]) -> Proxy:
    """EmbeddingBag; written out are "min", and "mean" with per_sample_weights."""
    layer, given = use.layer, use.by_role

    def make() -> nn.Module:
        table = nn.EmbeddingBag(
            layer.input_dim,
            layer.output_dim,
            mode="max" if layer.mode == "min" else layer.mode,
            include_last_offset=layer.include_last_offset,
            padding_idx=layer.padding_idx,
            device="meta",
            dtype=dtype_of(layer),
        )
        return filled(table, weight=layer.weights["embeddings"])

    module, indices = writer.module(layer, make), _indices(use)
    factors = given.get("per_sample_weights")
    if layer.mode != "min" and (factors is None or layer.mode == "sum"):
        named = {"offsets": _indices(use, "offsets")} if "offsets" in given else {}
        more = {} if factors is None else {"per_sample_weights": factors}
        return module(indices, **named, **more)
    if "offsets" in given or layer.padding_idx is not None:
        raise Unsupported(
            "mode 'min', and 'mean' with per_sample_weights, have no equivalent there with offsets "
            "or padding_idx"
        )
    rows: Proxy = functional.embedding(indices, writer.tensor(layer, "weight"))
    if factors is None:
        return rows.amin(1)
    return (rows * factors.unsqueeze(-1)).sum(1) / factors.sum(1, keepdim=True)


def average_pooling(writer: Writer, use: Use[Proxy]) -> Proxy:
    """The mean over the steps; what the mask hides is left out, as Keras does it."""
    if use.mask is None:
        return use.first.mean(1)
    counted = (use.mask != 0).unsqueeze(-1).to(getattr(torch, use.given.dtype))
    return (use.first * counted).sum(1) / counted.sum(1)


def reshape(writer: Writer, use: Use[Proxy]) -> Proxy:
    return use.first.reshape(-1, *use.node.output.shape[1:])


def flatten(writer: Writer, use: Use[Proxy]) -> Proxy:
    return use.first.flatten(1) if use.given.rank > 1 else use.first.unsqueeze(1)


def dot(writer: Writer, use: Use[Proxy]) -> Proxy:
    """Dot: the sum of products of two vectors, or a product of batches of matrices."""
    layer, (left, right) = use.layer, use.tensors
    axes = layer.axes_of(use.node.inputs)
    if layer.normalize:
        left = functional.normalize(left, dim=axes[0], eps=1e-6)
        right = functional.normalize(right, dim=axes[1], eps=1e-6)
    ranks = [tensor.rank for tensor in use.node.inputs]
    if ranks == [2, 2]:
        return (left * right).sum(1, keepdim=True)
    kept = ["bi"[: ranks[0] - 1], "bj"[: ranks[1] - 1]]
    terms = [word[:axis] + "k" + word[axis:] for word, axis in zip(kept, axes, strict=True)]
    made: Proxy = torch.einsum(f"{','.join(terms)}->b{kept[0][1:]}{kept[1][1:]}", left, right)
    return made


def dot_interaction(writer: Writer, use: Use[Proxy]) -> Proxy:
    x, features = use.first, use.given.shape[1]
    assert features is not None
    rows, columns = torch.tril_indices(features, features, offset=-1)
    pair = writer.tensor(use.layer, "rows", rows), writer.tensor(use.layer, "columns", columns)
    return (x @ x.transpose(1, 2))[:, pair[0], pair[1]]


def dropout(writer: Writer, use: Use[Proxy]) -> Proxy:
    return writer.module(use.layer, lambda: nn.Dropout(use.layer.rate))(use.first)


def _merged(use: Use[Proxy], function: Callable[[Any, Any], Any]) -> Proxy:
    """A function of two, of all tensors; those of fewer axes get some behind the batch."""
    ranks = [tensor.rank for tensor in use.node.inputs]
    aligned = list(use.tensors)
    for place, rank in enumerate(ranks):
        for _ in range(max(ranks) - rank):
            aligned[place] = aligned[place].unsqueeze(1)
    made: Proxy = reduce(function, aligned)
    return made


def merge(function: Callable[[Any, Any], Any]) -> Callable[[Writer, Use[Proxy]], Proxy]:
    return lambda writer, use: _merged(use, function)


def average(writer: Writer, use: Use[Proxy]) -> Proxy:
    return _merged(use, torch.add) / len(use.tensors)


def rescaling(writer: Writer, use: Use[Proxy]) -> Proxy:
    """x * scale + offset; arrays are buffers."""
    given = {"scale": use.layer.scale, "offset": use.layer.offset}
    dtype = getattr(torch, use.given.dtype)
    scale, offset = (
        writer.tensor(use.layer, name, torch.from_numpy(value.copy()).to(dtype))
        if isinstance(value, np.ndarray)
        else value
        for name, value in given.items()
    )
    scaled = use.first if isinstance(scale, float) and scale == 1 else use.first * scale
    return scaled if isinstance(offset, float) and offset == 0 else scaled + offset


def layer_normalization(writer: Writer, use: Use[Proxy]) -> Proxy:
    layer, weights = use.layer, use.layer.weights

    def make() -> nn.Module:
        module = nn.LayerNorm(layer.lengths, layer.epsilon, device="meta", dtype=dtype_of(layer))
        return filled(module, weight=weights.get("gamma"), bias=weights.get("beta"))

    return writer.module(layer, make)(use.first)


def rms_normalization(writer: Writer, use: Use[Proxy]) -> Proxy:
    layer = use.layer

    def make() -> nn.Module:
        module = nn.RMSNorm(layer.lengths, layer.epsilon, device="meta", dtype=dtype_of(layer))
        return filled(module, weight=layer.weights["scale"])

    return writer.module(layer, make)(use.first)


def unit_normalization(writer: Writer, use: Use[Proxy]) -> Proxy:
    axes = tuple(range(-len(use.layer.axes), 0))
    normalize: Any = functional.normalize  # whose annotation knows one axis only
    made: Proxy = normalize(use.first, dim=axes, eps=sqrt(use.layer.epsilon))
    return made


def batch_normalization(writer: Writer, use: Use[Proxy]) -> Proxy:
    layer, weights, rank = use.layer, use.layer.weights, use.given.rank
    need("the number of axes", rank, *BATCH_NORMS)

    def make() -> nn.Module:
        module = BATCH_NORMS[rank](
            layer.features, layer.epsilon, 1 - layer.momentum, device="meta", dtype=dtype_of(layer)
        )
        return filled(
            module,
            weight=weights.get("gamma"),
            bias=weights.get("beta"),
            running_mean=weights["moving_mean"],
            running_var=weights["moving_variance"],
            num_batches_tracked=np.zeros((), np.int64),
        )

    return _at_axis_1(use.first, layer.axis % rank, writer.module(layer, make))


def prelu(writer: Writer, use: Use[Proxy]) -> Proxy:
    """PReLU, whose slopes are one for all, one for each place of an axis, or all of a sample's."""
    layer, x = use.layer, use.first
    alpha = layer.weights["alpha"]
    own = [axis for axis, size in enumerate(alpha.shape, 1) if size > 1]
    whole = len(own) > 1
    if whole and alpha.shape != use.given.shape[1:]:
        raise Unsupported("only slopes of one axis, or of all, have an equivalent there")

    def make() -> nn.Module:
        module = nn.PReLU(alpha.size, device="meta", dtype=dtype_of(layer))
        return filled(module, weight=alpha.reshape(-1))

    module = writer.module(layer, make)
    if whole:
        return module(x.flatten(1)).reshape(-1, *alpha.shape)
    return _at_axis_1(x, own[0] if own else 1, module)


def _at_axis_1(x: Proxy, axis: int, module: Callable[[Proxy], Proxy]) -> Proxy:
    """A module that works along axis 1, along another axis."""
    return module(x) if axis == 1 else module(x.transpose(1, axis)).transpose(1, axis)


Written: TypeAlias = Callable[[Writer, Use[Proxy]], Proxy]

ROWS: dict[str, Written] = {
    "Activation": lambda _, use: ACTIVATIONS[use.layer.activation](use.first),
    "Add": merge(torch.add),
    "Average": average,
    "BatchNormalization": batch_normalization,
    "Concatenate": lambda _, use: torch.cat(use.tensors, use.layer.axis),
    "Dense": dense,
    "Dot": dot,
    "DotInteraction": dot_interaction,
    "Dropout": dropout,
    "ELU": lambda _, use: functional.elu(use.first, use.layer.alpha),
    "Embedding": embedding,
    "EmbeddingBag": embedding_bag,
    "Flatten": flatten,
    "GlobalAveragePooling1D": average_pooling,
    "GlobalMaxPooling1D": lambda _, use: use.first.amax(1),
    "LayerNormalization": layer_normalization,
    "LeakyReLU": lambda _, use: functional.leaky_relu(use.first, use.layer.negative_slope),
    "Maximum": merge(torch.maximum),
    "Minimum": merge(torch.minimum),
    "Multiply": merge(torch.mul),
    "PReLU": prelu,
    "RMSNormalization": rms_normalization,
    "Rescaling": rescaling,
    "Reshape": reshape,
    "Subtract": merge(torch.sub),
    "UnitNormalization": unit_normalization,
}
"""By the class of the layer."""
