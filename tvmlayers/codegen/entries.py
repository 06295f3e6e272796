"""The entry points of a model: the ways in which it can be called, each compiled for itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvmlayers import layers
from tvmlayers.codegen.cpu import Use, is_view
from tvmlayers.codegen.fuse import Step
from tvmlayers.dtypes import INDEX_DTYPES
from tvmlayers.layers.graph import Graph, SymbolicTensor

Dims = tuple[int | str, ...]


@dataclass(frozen=True)
class EntryInput:
    """One input of an entry point; `tensor` is the graph's own where it has one."""

    name: str
    dims: Dims
    dtype: str
    kind: str
    tensor: SymbolicTensor | None

    def manifest(self) -> dict[str, Any]:
        """The row of the manifest's `inputs`."""
        return {
            "name": self.name,
            "shape": list(self.dims),
            "dtype": self.dtype,
            "kind": self.kind,
        }


@dataclass(frozen=True)
class EntrySpec:
    """One way to call the model.

    roles: how the bag that takes all the inputs is called here; None where the graph says it.
    rename: symbols of the graph that mean something else here ("n" is "n2-1" for bags between
    offsets that include the last one).
    """

    symbol: str
    inputs: tuple[EntryInput, ...]
    roles: tuple[str, ...] | None
    rename: dict[str, str]
    index_dtype: str

    def dims(self, tensor: SymbolicTensor) -> Dims:
        """The axes of a tensor of the graph, as this entry names them."""
        return tuple(self.rename.get(d, d) if isinstance(d, str) else d for d in tensor.dims)


def entry_specs(graph: Graph) -> list[EntrySpec]:
    """All entry points of a graph: each index dtype, and for a bag each way to call it."""
    kinds = _kinds(graph)
    takes_indices = any(kind != "value" and kind != "weights" for kind in kinds.values())
    bag = _lone_bag(graph)
    specs: list[EntrySpec] = []
    for index_dtype in INDEX_DTYPES if takes_indices else ("int64",):
        if bag is None:
            inputs = tuple(
                EntryInput(
                    t.name,
                    t.dims,
                    index_dtype if kinds[id(t)] in ("index", "offsets") else t.dtype,
                    kinds[id(t)],
                    t,
                )
                for t in graph.inputs
            )
            specs.append(EntrySpec(f"forward_{len(specs)}", inputs, None, {}, index_dtype))
            continue
        for roles in _bag_roles(bag):
            specs.append(
                _bag_entry(f"forward_{len(specs)}", graph.inputs[0], bag, roles, index_dtype)
            )
    return specs


def _kinds(graph: Graph) -> dict[int, str]:
    """What each input is for: "index", "offsets", "weights" of a bag, or "value"."""
    kinds = {
        id(t): "index" if t.dtype.startswith(("int", "uint")) else "value" for t in graph.inputs
    }
    for node in graph.nodes:
        for tensor, role in zip(node.inputs, node.roles, strict=True):
            if id(tensor) in kinds and role == "offsets":
                kinds[id(tensor)] = "offsets"
            if id(tensor) in kinds and role == "per_sample_weights":
                kinds[id(tensor)] = "weights"
    return kinds


def _lone_bag(graph: Graph) -> layers.EmbeddingBag | None:
    """The bag that is the only reader of the only input, called with indices alone."""
    if len(graph.inputs) != 1:
        return None
    readers = [node for node in graph.nodes if graph.inputs[0] in node.inputs]
    if len(readers) != 1 or readers[0].roles != ("indices",):
        return None
    layer = readers[0].layer
    return layer if isinstance(layer, layers.EmbeddingBag) else None


def _bag_roles(bag: layers.EmbeddingBag) -> list[tuple[str, ...]]:
    forms: list[tuple[str, ...]] = [("indices",), ("indices", "offsets")]
    if bag.mode in ("sum", "mean"):
        forms += [(*form, "per_sample_weights") for form in forms]
    return forms


def _bag_entry(
    symbol: str,
    source: SymbolicTensor,
    bag: layers.EmbeddingBag,
    roles: tuple[str, ...],
    index_dtype: str,
) -> EntrySpec:
    ragged = "offsets" in roles
    with_last = ragged and bag.include_last_offset
    dims: Dims = ("total",) if ragged else source.dims
    offsets: Dims = ("ends",) if with_last else ("n",)
    made = {
        "indices": EntryInput("indices", dims, index_dtype, "index", source),
        "offsets": EntryInput("offsets", offsets, index_dtype, "offsets", None),
        "per_sample_weights": EntryInput("per_sample_weights", dims, bag.dtype, "weights", None),
    }
    return EntrySpec(
        symbol,
        tuple(made[role] for role in roles),
        roles,
        {"n": "ends-1"} if with_last else {},
        index_dtype,
    )


def uses(
    steps: Sequence[Step], graph: Graph, entry: EntrySpec
) -> list[tuple[Use, tuple[object, ...]]]:
    """The steps as this entry runs them, with the values that each step's inputs have here.

    A stand-in is a SymbolicTensor of the graph or, for offsets and weights that the graph does not
    know, an EntryInput.
    """
    made: list[tuple[Use, tuple[object, ...]]] = []
    left = {id(root(tensor)) for tensor in graph.outputs}
    read = {id(root(t)) for step in steps if not is_view(step.layer) for t in step.inputs}
    for node in steps:
        inputs: tuple[object, ...] = node.inputs
        roles, symbolic = node.roles, node.inputs
        if entry.roles is not None and graph.inputs[0] in node.inputs:
            roles = entry.roles
            inputs = tuple(i.tensor if i.tensor is not None else i for i in entry.inputs)
        leaves = id(node.output) in left - read
        use = Use(node.layer, symbolic, roles, node.output, entry.index_dtype, leaves)
        made.append((use, inputs))
    return made


def root(tensor: SymbolicTensor) -> SymbolicTensor:
    """The tensor in whose memory this one lies."""
    while tensor.node is not None and is_view(tensor.node.layer):
        tensor = tensor.node.inputs[0]
    return tensor
