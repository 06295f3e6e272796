"""What measures candidates, as a search sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from tvmlayers.spaces.choices import Decisions
from tvmlayers.tune.cases import Case
from tvmlayers.tune.outcome import Outcome


class Measurer(Protocol):
    """Opens a workload, tries candidates for it, and compares the best of them."""

    def open(self, case: Case, seed: int, reference: Decisions) -> float:
        """Microseconds of the reference, to which all times of the workload are then related.

        TuneError where the reference itself does not work.
        """

    def relate(self, microseconds: float) -> None:
        """Give times as if the reference took so long: that of the trials before a restart."""

    def __call__(self, batch: Sequence[Decisions]) -> Iterator[tuple[int, Outcome]]:
        """See `outcome.Measure`."""

    def compare(self, finalists: Sequence[Decisions]) -> list[float]:
        """Microseconds of each finalist, measured together; TuneError where that fails."""

    def limits(self, case: Case) -> dict[str, float] | None:
        """{"flops", "bytes"} a second of the machine on such data, where that can be measured."""

    def close(self) -> None:
        """End what measures."""


class OneByOne:
    """The part of a measurer that tries candidates one after the other against the reference."""

    _microseconds = 0.0  # of the reference

    def relate(self, microseconds: float) -> None:
        self._microseconds = microseconds

    def __call__(self, batch: Sequence[Decisions]) -> Iterator[tuple[int, Outcome]]:
        for place, decisions in enumerate(batch):
            yield place, self._trial(decisions)

    def _trial(self, decisions: Decisions) -> Outcome:
        """What came of one candidate."""
        raise NotImplementedError
