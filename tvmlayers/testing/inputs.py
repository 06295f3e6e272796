"""Fresh random inputs for an entry point of a compiled model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvmlayers import layers
from tvmlayers.layers.graph import Graph, Node
from tvmlayers.runtime.signature import extent
from tvmlayers.testing.bounds import Array

FREE_LENGTHS = 8  # of an axis that any call may choose, as the words of a text: 1 to this many
UNUSED = 100  # integers that nothing reads are less than this, in every dtype
MEAN_BAG = 3  # indices a bag; a quarter of the bags is then empty


@dataclass(frozen=True)
class Reader:
    """A lookup layer that an index input goes to; offsets: the name of its offsets, if any."""

    layer: layers.Embedding | layers.EmbeddingBag
    indices: str
    offsets: str | None


def draw(
    graph: Graph, entry: Mapping[str, Any], batch: int, rng: np.random.Generator
) -> dict[str, Array]:
    """Arrays for the inputs of an entry of the manifest, by name, that the model accepts.

    batch: the length of the batch axis, the number of bags where there are offsets.
    """
    readers = list(_readers(graph, entry))
    sizes = _sizes(entry, readers, batch, rng)
    drawn: dict[str, Array] = {}
    for given in entry["inputs"]:
        shape = tuple(extent(dim, sizes) for dim in given["shape"])
        name, dtype, kind = given["name"], given["dtype"], given["kind"]
        if kind == "index":
            mine = [reader.layer for reader in readers if reader.indices == name]
            drawn[name] = _indices(shape, mine, rng).astype(dtype)
        elif kind == "weights":
            drawn[name] = rng.uniform(0.25, 1.75, shape).astype(dtype)
        elif kind == "value":
            drawn[name] = _values(shape, rng).astype(dtype)
    for reader in readers:
        if reader.offsets is not None:
            slot = next(slot for slot in entry["inputs"] if slot["name"] == reader.offsets)
            count = extent(slot["shape"][0], sizes)
            offsets = _offsets(count, len(drawn[reader.indices]), _has_last(reader), rng)
            drawn[reader.offsets] = offsets.astype(slot["dtype"])
    return {given["name"]: drawn[given["name"]] for given in entry["inputs"]}


def is_lone_bag(graph: Graph, entry: Mapping[str, Any]) -> bool:
    """Whether the entry has inputs that its graph does not know: a bag's other ways of a call."""
    return len(entry["inputs"]) > len(graph.inputs)


def _readers(graph: Graph, entry: Mapping[str, Any]) -> Iterator[Reader]:
    names = [given["name"] for given in entry["inputs"]]
    place = {id(tensor): i for i, tensor in enumerate(graph.inputs)}
    for node in graph.nodes:
        layer = node.layer
        if not isinstance(layer, (layers.Embedding, layers.EmbeddingBag)):
            continue
        indices = names[place[id(node.inputs[0])]]
        offsets = _role(node, "offsets")
        if offsets is not None:
            yield Reader(layer, indices, names[place[id(offsets)]])
        elif is_lone_bag(graph, entry) and isinstance(layer, layers.EmbeddingBag):
            yield Reader(layer, indices, "offsets" if "offsets" in names else None)
        else:
            yield Reader(layer, indices, None)


def _role(node: Node, role: str) -> Any:
    return next((t for t, r in zip(node.inputs, node.roles, strict=True) if r == role), None)


def _has_last(reader: Reader) -> bool:
    return isinstance(reader.layer, layers.EmbeddingBag) and reader.layer.include_last_offset


def _sizes(
    entry: Mapping[str, Any], readers: Sequence[Reader], batch: int, rng: np.random.Generator
) -> dict[str, int]:
    """A length for each symbol."""
    shapes = {given["name"]: given["shape"] for given in entry["inputs"]}
    symbols = [dim for shape in shapes.values() for dim in shape if isinstance(dim, str)]
    sizes = {symbol: int(rng.integers(1, FREE_LENGTHS + 1)) for symbol in symbols}
    sizes["n"] = batch
    # one length for all flat indices: tables may share their offsets, and offsets their indices
    total = int(rng.integers(batch, 2 * MEAN_BAG * batch + 1))
    for reader in readers:
        if reader.offsets is not None:
            sizes[shapes[reader.offsets][0]] = batch + _has_last(reader)
            sizes[shapes[reader.indices][0]] = total
    return sizes


def _indices(
    shape: tuple[int, ...],
    read_by: Sequence[layers.Embedding | layers.EmbeddingBag],
    rng: np.random.Generator,
) -> Array:
    """Indices that all of the layers take; an eighth is padding, the last row or outside."""
    if not read_by:  # an input that nothing uses
        return rng.integers(0, UNUSED, shape)
    strict = [layer.input_dim for layer in read_by if layer.oob in ("raise", "unchecked")]
    rows = min(strict or [layer.input_dim for layer in read_by])
    special = [0, rows - 1, *(layer.padding_idx or 0 for layer in read_by)]
    if not strict:
        special += [-1, -rows - 7, rows, 3 * rows + 5]
    special = [index for index in special if index < rows or not strict]
    indices = rng.integers(0, rows, shape)
    return np.where(rng.random(shape) < 0.125, rng.choice(special, shape), indices)


def _values(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Standard normal numbers; a quarter of the rows are ten times as large, for the tails of
    functions, and a quarter lie a thousand away from 0, for what cancels."""
    rows = (*shape[:1], *(1 for _ in shape[1:]))
    kind = rng.integers(0, 8, rows)
    away = np.where(kind == 2, 1000.0, np.where(kind == 3, -1000.0, 0.0))
    return rng.standard_normal(shape) * np.where(kind < 2, 10.0, 1.0) + away


def _offsets(count: int, total: int, has_last: bool, rng: np.random.Generator) -> Array:
    """count offsets into total indices; bags of any length, empty ones too."""
    bags = count - has_last
    cuts = np.sort(rng.integers(0, total + 1, max(bags - 1, 0)))
    return np.concatenate([[0] * min(bags, 1), cuts, [total] * has_last]).astype(np.int64)
