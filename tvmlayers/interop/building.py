"""What all importers share: layers made once, and one error for all that is not supported."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tvmlayers.errors import ModelImportError, TvmLayersError
from tvmlayers.layers import Layer
from tvmlayers.layers.names import free_name

if TYPE_CHECKING:
    from collections.abc import Iterator

AnyLayer = TypeVar("AnyLayer", bound=Layer)


class Unsupported(Exception):
    """Why one part of a model cannot be imported. Caught by the importer, never by users."""


@dataclass(frozen=True)
class Problem:
    """A part of a model that cannot be imported. where: its place in the user's own terms."""

    part: str
    why: str
    where: str = ""

    def __str__(self) -> str:
        place = f", {self.where}" if self.where else ""
        return f"{self.part}{place}: {self.why}"


class Builder:
    """The layers of a model that is being imported.

    A layer is made once for each key, so that weights which the original shares stay shared.
    """

    def __init__(self, framework: str) -> None:
        self.framework = framework
        self.problems: list[Problem] = []
        self._layers: dict[Hashable, Any] = {}
        self._names: set[str] = set()

    def name(self, wanted: str) -> str:
        """wanted as the name of a layer: without "/", and with a number where it is taken."""
        name = free_name(wanted.replace("/", ".") or "layer", self._names)
        self._names.add(name)
        return name

    def layer(
        self,
        key: Hashable,
        name: str,
        make: Callable[[str], AnyLayer],
        weights: Sequence[object] = (),
    ) -> AnyLayer:
        """The layer of this key; made under a free name and given its weights the first time."""
        known: AnyLayer | None = self._layers.get(key)
        if known is None:
            known = make(self.name(name))
            if weights:
                known.set_weights(weights)
            self._layers[key] = known
        return known

    @contextmanager
    def part(self, part: str, where: str = "") -> Iterator[None]:
        """Notes what goes wrong inside as a problem of this part of the model."""
        try:
            yield
        except (Unsupported, TvmLayersError) as problem:
            self.problems.append(Problem(part, str(problem), where))

    def finish(self) -> None:
        """ModelImportError that lists every problem, where there are any."""
        if self.problems:
            count = len(self.problems)
            listed = "".join(f"\n  - {problem}" for problem in self.problems)
            raise ModelImportError(
                f"{count} part{'s' * (count > 1)} of this {self.framework} model cannot be "
                f"imported:{listed}"
            )
