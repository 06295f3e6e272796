"""What all importers share: layers made once, and one error for all that is not supported."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
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


class Problems(list[Problem]):
    """What is wrong with a model, to be told all at once."""

    @contextmanager
    def of(self, part: str, where: str = "") -> Iterator[None]:
        """Notes what goes wrong inside as a problem of this part of the model."""
        try:
            yield
        except (Unsupported, TvmLayersError) as problem:
            self.append(Problem(part, str(problem), where))

    def refuse(self, error: type[TvmLayersError], what: str, done: str) -> None:
        """The error that lists every problem, where there are any.

        what: the model is; done: what cannot be done with its parts.
        """
        if self:
            count = len(self)
            listed = "".join(f"\n  - {problem}" for problem in self)
            raise error(f"{count} part{'s' * (count > 1)} of this {what} cannot be {done}:{listed}")


class Builder:
    """The layers of a model that is being imported.

    A layer is made once for each key, so that weights which the original shares stay shared.
    """

    def __init__(self, framework: str) -> None:
        self.framework = framework
        self.problems = Problems()
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

    def part(self, part: str, where: str = "") -> AbstractContextManager[None]:
        """Notes what goes wrong inside as a problem of this part of the model."""
        return self.problems.of(part, where)

    def input(self, name: str, is_used: bool) -> AbstractContextManager[None]:
        """Notes an input that cannot be made as a problem; one that nothing uses is left out."""
        if not is_used:
            return suppress(Unsupported, TvmLayersError)
        return self.part(f"the input {name}")

    def finish(self) -> None:
        """ModelImportError that lists every problem, where there are any."""
        self.problems.refuse(ModelImportError, f"{self.framework} model", "imported")
