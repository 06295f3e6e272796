"""What a kernel computes, as a record names it: its kind, its sizes and its other traits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tvmlayers.dtypes import wide
from tvmlayers.errors import ConfigError, unknown_name
from tvmlayers.quantization.kinds import Kind as Stored
from tvmlayers.quantization.rows import row_bytes

STORED = "stored"


@dataclass(frozen=True)
class Kind:
    """A kind of kernel. batch: the size that varies from call to call; sizes: all, in order;
    stores: whether it has the trait "stored", which is left out where that is the dtype."""

    batch: str
    sizes: tuple[str, ...]
    traits: tuple[str, ...]
    stores: bool = True


KINDS = {
    "dense": Kind("m", ("m", "k", "n"), ("dtype", "activation")),
    "embedding": Kind("indices", ("indices", "rows", "width"), ("dtype",)),
    "bag": Kind("indices", ("indices", "rows", "width"), ("dtype", "mode")),
    "softmax": Kind("m", ("m", "n"), ("dtype",), stores=False),
}


@dataclass(frozen=True)
class Workload:
    """One kernel on one size of batch; sizes are positive.

    The batch of a bag is the number of indices in all bags together.
    """

    kind: str
    sizes: tuple[tuple[str, int], ...]
    traits: tuple[tuple[str, str], ...]

    @staticmethod
    def make(kind: str, **values: Any) -> Workload:
        """`Workload.make("dense", m=1, k=640, n=128, dtype="float32", activation="relu")`."""
        return Workload.from_dict({"kind": kind, **values})

    @staticmethod
    def from_dict(given: Mapping[str, Any]) -> Workload:
        """The workload that `to_dict` described; ConfigError where it is not one."""
        name = given.get("kind")
        if name not in KINDS:
            raise unknown_name("kind of kernel", name, KINDS)
        kind = KINDS[name]
        expected = {"kind", *kind.sizes, *kind.traits}
        if set(given) - ({STORED} if kind.stores else set()) != expected:
            raise ConfigError(
                f"a workload of kind {name!r} has {', '.join(sorted(expected))}"
                f"{' and perhaps ' + STORED if kind.stores else ''}; "
                f"got {', '.join(sorted(map(str, given)))}"
            )
        has_kind = given.get(STORED, given["dtype"]) != given["dtype"]
        traits = (*kind.traits, *([STORED] if has_kind else []))
        for size in kind.sizes:
            if type(given[size]) is not int or given[size] < 1:
                raise ConfigError(
                    f"the size {size} of a {name} workload is a whole number of at least 1, "
                    f"got {given[size]!r}"
                )
            if given[size].bit_length() > 63:  # what an axis of a tensor can have
                raise ConfigError(
                    f"the size {size} of a {name} workload is below 2**63, got a number of "
                    f"{given[size].bit_length()} bits"
                )
        for trait in traits:
            if not isinstance(given[trait], str):
                raise ConfigError(f"{trait} of a {name} workload is a name, got {given[trait]!r}")
        return Workload(
            name,
            tuple((size, given[size]) for size in kind.sizes),
            tuple((trait, given[trait]) for trait in traits),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the kind, the sizes and the traits, in this order."""
        return dict(self._values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def at(self, batch: int) -> Workload:
        """The same kernel on another size of batch."""
        name = KINDS[self.kind].batch
        sizes = tuple((size, batch if size == name else value) for size, value in self.sizes)
        return Workload(self.kind, sizes, self.traits)

    @cached_property
    def stored(self) -> str:
        """How the weight is kept: the dtype, or the name of a `quantization.Kind`."""
        return str(self._values.get(STORED, self._values["dtype"]))

    @property
    def is_quantized(self) -> bool:
        """Whether the weight is kept in fewer bits than the layer's dtype has."""
        return STORED in self._values

    @property
    def is_plain(self) -> bool:
        """Whether the weight is kept in the dtype that is computed in."""
        return self.stored == wide(self["dtype"])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a lookup's table."""
        return row_bytes(self["width"], self.stored)

    @property
    def weight_bytes(self) -> int:
        """Bytes of a dense layer's weight, k by n, and of its scales by groups."""
        return Stored.of(self.stored).weight_bytes(self["k"], self["n"])

    @cached_property
    def batch(self) -> int:
        """The size that varies from call to call."""
        return int(self._values[KINDS[self.kind].batch])

    @cached_property
    def _values(self) -> dict[str, Any]:
        return {"kind": self.kind, **dict(self.sizes), **dict(self.traits)}

    def __str__(self) -> str:
        sizes = "x".join(str(value) for _, value in self.sizes)
        return f"{self.kind} {sizes}:{':'.join(value for _, value in self.traits)}"
