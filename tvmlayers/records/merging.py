"""Merges files and folders of records into one folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvmlayers.records.folders import file_of
from tvmlayers.records.record import Record
from tvmlayers.records.sources import read_all
from tvmlayers.records.write import best, grouped, update


@dataclass(frozen=True)
class Summary:
    """What a merge did. files: those that changed; the rest counts records.

    unchanged: records of the sources that were there already, or a newer one was.
    skipped: those that could not be read.
    """

    files: tuple[Path, ...] = ()
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: int = 0


def merge(sources: Sequence[str | Path], into: str | Path) -> Summary:
    """What changed in the folder `into`, which then holds the records of all `sources`.

    Of two for the same workload, space and TVM version the one of the later date stays, of the
    same day the faster one. What cannot be read is skipped with a RecordWarning.
    """
    files = read_all(sources)
    found = Summary(skipped=sum(len(file.problems) for file in files))
    records = [record for file in files for record in file.records]
    for (target, kind), group in grouped(records).items():
        path = file_of(Path(into), target, kind)
        before: list[Record] = []

        def change(
            old: list[Record], group: list[Record] = group, before: list[Record] = before
        ) -> Iterable[Record]:
            before[:] = old
            return best([*old, *group]).values()

        changed = update(path, target, kind, change)
        held, offered = best(before), best(group)
        after = best([*before, *group])
        added = len(after) - len(held)
        replaced = sum(after[each] != record for each, record in held.items())
        found = Summary(
            (*found.files, *([path] if changed else [])),
            found.added + added,
            found.replaced + replaced,
            found.unchanged + len(offered) - added - replaced,
            found.skipped,
        )
    return found
