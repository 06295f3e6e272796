"""What all exporters share: a model's graph, layer by layer, by the rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from tvmlayers.errors import ModelExportError
from tvmlayers.interop.building import Problems, Unsupported
from tvmlayers.layers import Model
from tvmlayers.layers.graph import Node, SymbolicTensor
from tvmlayers.layers.stored import input_bits

Tensor = TypeVar("Tensor")
"""What stands for a tensor while a model is written."""


@dataclass(frozen=True)
class Use(Generic[Tensor]):
    """One use of a layer: its tensors by role, and the indices whose zeros are masked."""

    node: Node
    by_role: Mapping[str, Tensor]
    mask: Tensor | None

    @property
    def layer(self) -> Any:
        """The layer, of whatever class the row is for."""
        return self.node.layer

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.node.layer.name

    @property
    def first(self) -> Tensor:
        """The only tensor, or the first."""
        return self.tensors[0]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors in order."""
        return list(self.by_role.values())

    @property
    def given(self) -> SymbolicTensor:
        """The first tensor, as our own graph has it."""
        return self.node.inputs[0]


Row: TypeAlias = Callable[[Use[Tensor]], Tensor]


def exported(
    model: Model, framework: str, inputs: Mapping[int, Tensor], rows: Mapping[str, Row[Tensor]]
) -> list[Tensor]:
    """The model's outputs as its rows, by the layer's class, make them of the inputs.

    inputs: by the identity of the model's own. ModelExportError names every layer and option that
    the framework has no equivalent of.
    """
    problems = Problems()
    made = dict(inputs)
    for node in model.nodes:
        layer = node.layer
        with problems.of(layer.kind, f"the layer {layer.name!r}"):
            _check(layer, rows)
            if all(id(tensor) in made for tensor in node.inputs):
                masked = node.inputs[0].mask_of
                by_role = dict(zip(node.roles, (made[id(t)] for t in node.inputs), strict=True))
                use = Use(node, by_role, None if masked is None else made[id(masked)])
                made[id(node.output)] = rows[layer.kind](use)
    problems.refuse(ModelExportError, f"model {model.name!r}", f"written for {framework}")
    return [made[id(tensor)] for tensor in model.outputs]


def _check(layer: Any, rows: Mapping[str, Row[Any]]) -> None:
    """Unsupported for what no framework has."""
    if layer.kind not in rows:
        raise Unsupported("it has no layer that computes the same")
    if kept := input_bits(layer):
        raise Unsupported(
            f"it rounds its inputs to {kept}, as no layer there does: tl.quantize the float model "
            "without activations="
        )
    if callable(getattr(layer, "activation", None)):
        raise Unsupported("its activation is a Python callable: use a named one")


def need(option: str, got: object, *known: object) -> None:
    """Unsupported where an option is none of those that the framework has."""
    if got not in known:
        listed = " and ".join(repr(value) for value in known)
        raise Unsupported(f"only {option}={listed} has an equivalent there, not {got!r}")
