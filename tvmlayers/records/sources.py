"""Reads whole folders of records, and reports what had to be skipped."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from tvmlayers.errors import RecordError, RecordWarning
from tvmlayers.records.parse import Problem, RecordFile, read


def read_all(sources: Sequence[str | Path]) -> list[RecordFile]:
    """The files of records in all `sources`, with a RecordWarning of what cannot be read."""
    found = []
    for path in [path for source in sources for path in find(Path(source))]:
        try:
            file = read(path)
        except OSError as error:
            raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error
        if file.problems:
            warn_skipped(path, file.problems)
        found.append(file)
    return found


def find(source: Path) -> list[Path]:
    """`source` itself if it is a file, else every .json file below the folder, sorted."""
    if source.is_file():
        return [source]
    if source.is_dir():
        return sorted(path for path in source.rglob("*.json") if path.is_file())
    raise RecordError(
        f"{source} is no file or folder of records; `tvmlayers records list` shows those in use"
    )


def warn_skipped(path: Path, problems: Iterable[Problem]) -> None:
    """One RecordWarning that names the file and the first of what is skipped."""
    told = [str(problem) for problem in problems]
    more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
    text = f"{path}: skipped {'; '.join(told[:3])}{more}"
    warnings.warn(text, RecordWarning, stacklevel=4)
