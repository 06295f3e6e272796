"""The form of a model's configuration; what a layer's own arguments may be, its class checks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

Place = Annotated[int, Meta(ge=0, lt=1 << 31)]  # of a tensor: inputs first, then nodes' outputs
Extent = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class InputConfig(Struct, forbid_unknown_fields=True):
    """An input: its axes after the batch; without one where `batch` is False."""

    name: str
    shape: list[Extent | None]
    dtype: str | None
    batch: bool = True


class LayerConfig(Struct, forbid_unknown_fields=True, rename={"kind": "class"}):
    """A layer by its class and arguments."""

    kind: str
    config: dict[str, Any]


class NodeConfig(Struct, forbid_unknown_fields=True):
    """A call of a layer on tensors."""

    layer: str
    inputs: list[Place]
    roles: list[str]


class ModelConfig(Struct, forbid_unknown_fields=True, rename={"kind": "class"}):
    """A model; the last three are there once it is built."""

    kind: Literal["Model", "Sequential"]
    name: str
    layers: list[LayerConfig]
    inputs: list[InputConfig] | UnsetType = UNSET
    nodes: list[NodeConfig] | UnsetType = UNSET
    outputs: list[Place] | UnsetType = UNSET
