"""The records that a compilation may use; reading them again costs two looks at file sizes."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tvmlayers.records.folders import file_of, find_user_folder, shipped_folder
from tvmlayers.records.parse import Problem, read
from tvmlayers.records.record import Key, Record, is_plain_name, newest, order, replaced
from tvmlayers.records.sources import warn_skipped

State = tuple[int, int, int] | None

_told: set[tuple[Path, str]] = set()
"""What this process has been warned of: a file, and why a record of it is skipped."""


def load(target: str, kind: str) -> tuple[Record, ...]:
    """The usable records for a target's name and a kind of kernel, neighbours together.

    A record of the user's hides a shipped one of the same workload and space, unless only the
    shipped one was measured. What is damaged or
    made with another TVM is skipped with one RecordWarning a file, told once.
    """
    if not is_plain_name(target):  # no records of it can have been written
        return ()
    tvm = installed_tvm()
    folders = filter(None, (shipped_folder(), find_user_folder()))
    paths = tuple(file_of(folder, target, kind) for folder in folders)
    states = tuple(_state(path) for path in paths)
    for path, state in zip(paths, states, strict=True):
        _tell(path, _read(path, state, target, kind, tvm)[1])
    return _combine(paths, states, target, kind, tvm)


@lru_cache(maxsize=1)
def installed_tvm() -> str:
    """The version of apache-tvm that is installed, without importing it."""
    try:
        return version("apache-tvm")
    except PackageNotFoundError:
        return "none"


@lru_cache(maxsize=64)
def _combine(
    paths: tuple[Path, ...], states: tuple[State, ...], target: str, kind: str, tvm: str
) -> tuple[Record, ...]:
    found: dict[Key, Record] = {}
    for path, state in zip(paths, states, strict=True):
        for key, record in _read(path, state, target, kind, tvm)[0].items():
            found[key] = replaced(found.get(key, record), record)
    return tuple(sorted(found.values(), key=order))


@lru_cache(maxsize=64)
def _read(
    path: Path, state: State, target: str, kind: str, tvm: str
) -> tuple[dict[Key, Record], tuple[Problem, ...]]:
    """The usable records of a file in a certain state, and what is skipped."""
    if state is None:
        return {}, ()
    try:
        file = read(path, target, kind)
    except OSError as error:
        return {}, (Problem("", f"the file cannot be read: {error.strerror or error}"),)
    usable: dict[Key, Record] = {}
    others: list[tuple[str, Record]] = []
    for where, record in file.placed:
        if record.tvm == tvm:
            usable[record.key] = newest(usable.get(record.key, record), record)
        else:
            others.append((where, record))
    foreign = [
        Problem(
            where,
            f"{record.workload}, space {record.space}: made with TVM {record.tvm}, "
            f"{tvm} is installed; tune it again, `tvmlayers records prune --tvm` drops it",
        )
        for where, record in others
        if record.key not in usable  # tuned again since
    ]
    return usable, (*file.problems, *foreign)


def _state(path: Path) -> State:
    """What changes when the file does; None for no file."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None  # or in a home that is another user's, as HOME may be in a container
    except OSError:  # reading will say why
        return (0, 0, 0)
    return found.st_mtime_ns, found.st_size, found.st_ino


def _tell(path: Path, problems: tuple[Problem, ...]) -> None:
    # Without the place, which moves as records are added.
    fresh = [problem for problem in problems if (path, problem.reason) not in _told]
    if fresh:
        _told.update((path, problem.reason) for problem in fresh)
        warn_skipped(path, fresh)
