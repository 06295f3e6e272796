"""Changes files of records: under a lock, whole or not at all, dropping nothing unread."""

from __future__ import annotations

import fcntl
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tvmlayers.errors import RecordError, RecordWarning
from tvmlayers.files import replacing
from tvmlayers.records.folders import VARIABLE, file_of, user_folder
from tvmlayers.records.parse import RecordFile, read, render
from tvmlayers.records.record import Identity, Record, newest, replaced


def add(
    records: Iterable[Record], folder: str | Path | None = None, *, replace: bool = True
) -> list[Path]:
    """The files in `folder` that now hold `records`, beside what they held before.

    folder: `user_folder()` by default. replace: whether a record takes the place of the one that
    stands there for the same workload, space and TVM version; it stays where this is False. A
    measured record never gives way to a modelled one.
    """
    into = user_folder() if folder is None else Path(folder)
    paths = []
    for (target, kind), group in grouped(records).items():
        new = {record.identity: record for record in group}

        def change(old: list[Record], new: dict[Identity, Record] = new) -> Iterable[Record]:
            held = best(old)
            if not replace:
                return (new | held).values()
            put = {each: replaced(held.get(each, record), record) for each, record in new.items()}
            return (held | put).values()

        paths.append(file_of(into, target, kind))
        update(paths[-1], target, kind, change)
    return paths


def grouped(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """The records of each (target, kind): of each file."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.target, record.workload.kind), []).append(record)
    return groups


def best(records: Iterable[Record]) -> dict[Identity, Record]:
    """The newest record of each identity."""
    found: dict[Identity, Record] = {}
    for record in records:
        found[record.identity] = newest(found.get(record.identity, record), record)
    return found


def update(
    path: Path, target: str, kind: str, change: Callable[[list[Record]], Iterable[Record]]
) -> bool:
    """Whether the file changed: its records become `change(records)`, all at once.

    Another process that updates it at the same time waits. What cannot be read as a record stays
    as it is; a file that is not JSON is copied to `<name>.damaged-<n>` first, with a warning. No
    folder or file is made for no records.
    """
    aside: Path | None = None
    try:
        path = path.resolve()  # a link stays one: what it leads to is locked and replaced
        if not path.exists() and not list(change([])):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            old = _read_ours(path, target, kind)
            text = render(target, kind, change(old.records), old.kept)
            data = text.encode("utf-8", "surrogateescape")
            if path.exists() and path.read_bytes() == data:
                return False
            aside = _write(path, data, keep_old=bool(old.damaged))
    except OSError as error:
        raise RecordError(
            f"{error.filename or path}: records cannot be written there: "
            f"{error.strerror or error}; set {VARIABLE} to a folder that can be written, "
            f"or give one with --records DIR"
        ) from error
    if aside is not None:
        warnings.warn(
            f"{path}: {old.damaged}: {len(old.records)} of its records were recovered, "
            f"the file as it was is {aside.name}",
            RecordWarning,
            stacklevel=3,
        )
    return True


def _read_ours(path: Path, target: str, kind: str) -> RecordFile:
    """What is in the file; a missing one is empty, a foreign one a RecordError."""
    try:
        found = read(path, target, kind)
    except FileNotFoundError:
        return RecordFile(path, target, kind)
    if found.foreign:
        raise RecordError(
            f"{path}: {found.foreign}; nothing was written: move it away, "
            f"or set {VARIABLE} to another folder"
        )
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """No other process updates `path`; the lock file stays, as removing it would race."""
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(path: Path, data: bytes, keep_old: bool) -> Path | None:
    """The copy of the old file, if it is to be kept; `path` is the old file or all of the new."""
    aside = _free_name(path) if keep_old else None
    try:
        with replacing(path) as file:
            file.write(data)
            if aside is not None:
                shutil.copy2(path, aside)
    except BaseException:
        if aside is not None:
            aside.unlink(missing_ok=True)
        raise
    return aside


def _free_name(path: Path) -> Path:
    number = 1
    while (free := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return free
