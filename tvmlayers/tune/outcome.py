"""What came of one trial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tvmlayers.spaces.choices import Decisions

Key = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Outcome:
    """The time of one call, or the cause of a failure such as "timed out after 10 s".

    seconds: what the trial cost, building included.
    """

    microseconds: float | None
    cause: str | None = None
    seconds: float = 0.0

    @property
    def time(self) -> float:
        """Microseconds; of a failure, infinitely many."""
        return float("inf") if self.microseconds is None else self.microseconds


class Measure(Protocol):
    """Tries candidates. `search.explore` takes any function of this form."""

    def __call__(self, batch: Sequence[Decisions]) -> Iterator[tuple[int, Outcome]]:
        """(place in `batch`, outcome) of each candidate, as they come in."""


def key_of(decisions: Decisions) -> Key:
    """What two equal decisions share."""
    return tuple(sorted(decisions.items()))
