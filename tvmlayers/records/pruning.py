"""Drops records that have had their day."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tvmlayers.records.record import Record, check_date
from tvmlayers.records.sources import read_all
from tvmlayers.records.write import best, update


@dataclass(frozen=True)
class Dropped:
    """A record that was dropped, the file it was in, and why."""

    file: Path
    record: Record
    reason: str


@dataclass(frozen=True)
class Rules:
    """What goes, beside duplicates."""

    tvm: str | None
    slower: bool
    before: str | None

    def reason(self, record: Record) -> str:
        """Why the record goes; empty if it stays."""
        if self.tvm is not None and record.tvm != self.tvm:
            return f"made with TVM {record.tvm}, not {self.tvm}"
        if self.slower and record.microseconds >= record.untuned_microseconds:
            return (
                f"no faster than untuned: {record.microseconds:g} us "
                f"against {record.untuned_microseconds:g} us"
            )
        if self.before is not None and record.date < self.before:
            return f"of {record.date}, before {self.before}"
        return ""

    def apply(self, records: Iterable[Record]) -> Iterator[tuple[Record, str]]:
        """Each record with why it goes, empty for those that stay."""
        judged = [(record, self.reason(record)) for record in records]
        left = best(record for record, reason in judged if not reason)
        for record, reason in judged:
            # The first of two equals stays, as `best` has it: by identity, not by value.
            double = not reason and left[record.identity] is not record
            yield record, "another of the same workload and space is as new" if double else reason


def prune(
    folder: str | Path,
    *,
    tvm: str | None = None,
    slower: bool = False,
    before: str | None = None,
    target: str | None = None,
    kind: str | None = None,
    dry_run: bool = False,
) -> tuple[Dropped, ...]:
    """The records dropped from `folder`: duplicates, and what the rules name.

    tvm: those of another TVM version go. slower: those no faster than untuned go. before: those
    of an earlier date (ISO) go. target, kind: only these files are looked at. dry_run: says what
    would go. What cannot be read stays, with a RecordWarning.
    """
    if before is not None:
        check_date("before", before)
    rules = Rules(tvm, slower, before)
    dropped: list[Dropped] = []
    for file in read_all([folder]):
        if target not in (None, file.target) or kind not in (None, file.kind):
            continue
        found = [(record, reason) for record, reason in rules.apply(file.records) if reason]
        dropped += [Dropped(file.path, record, reason) for record, reason in found]
        if found and not dry_run:
            update(
                file.path,
                file.target,
                file.kind,
                lambda old: [record for record, reason in rules.apply(old) if not reason],
            )
    return tuple(dropped)
