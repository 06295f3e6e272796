"""What differs between two folders or files of records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tvmlayers.records.record import Decision, Record, newest
from tvmlayers.records.sources import read_all


@dataclass(frozen=True)
class Change:
    """One workload and space of which both sides have a record, and not the same one."""

    before: Record
    after: Record

    @property
    def ratio(self) -> float:
        """Time after by time before: below 1 is faster."""
        return self.after.microseconds / self.before.microseconds

    @property
    def decisions(self) -> dict[str, tuple[Decision | None, Decision | None]]:
        """The decisions that differ as (before, after), None where a side has not that one."""
        before, after = self.before.decisions, self.after.decisions
        names = dict.fromkeys((*before, *after))
        pairs = {name: (before.get(name), after.get(name)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@dataclass(frozen=True)
class Difference:
    """The way from one set of records to another; `same` counts those that are equal."""

    added: tuple[Record, ...]
    removed: tuple[Record, ...]
    changed: tuple[Change, ...]
    same: int


def diff(a: str | Path, b: str | Path) -> Difference:
    """What has to happen to the records of `a`, a folder or file, to become those of `b`.

    Where a side has several for one workload and space, of different TVM versions, the newest
    counts.
    """
    before, after = (
        _by_key(record for file in read_all([side]) for record in file.records) for side in (a, b)
    )
    both = [key for key in before if key in after]
    changes = [Change(before[key], after[key]) for key in both if before[key] != after[key]]
    return Difference(
        tuple(after[key] for key in after if key not in before),
        tuple(before[key] for key in before if key not in after),
        tuple(changes),
        len(both) - len(changes),
    )


def _by_key(records: Iterable[Record]) -> dict[tuple[object, ...], Record]:
    found: dict[tuple[object, ...], Record] = {}
    for record in records:
        key = (record.target, *record.key)
        found[key] = newest(found.get(key, record), record)
    return found
