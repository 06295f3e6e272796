"""What was tried, one JSON line a trial, on the disk before the next trial begins.

`<work dir>/<target>/<kind>-<hash>.jsonl` holds the trials of one workload. A run that was killed
goes on from it: the search is run again and finds these trials done.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from tvmlayers import userdata
from tvmlayers.errors import TuneError
from tvmlayers.records.parse import Problem
from tvmlayers.records.sources import warn_skipped
from tvmlayers.targets.target import Hardware
from tvmlayers.tune.outcome import Key, Outcome, key_of
from tvmlayers.workload import Workload

if TYPE_CHECKING:
    from tvmlayers.spaces.choices import Decisions

VARIABLE = "TVMLAYERS_TUNING"
Microseconds = Annotated[float, Meta(ge=1e-6, le=1e15)]  # a picosecond to thirty years


def default_folder() -> Path:
    """`$TVMLAYERS_TUNING`, else `tuning` in the user's data folder; TuneError without a home."""
    folder = userdata.user_folder(VARIABLE, "tuning")
    if folder is None:
        raise TuneError(
            f"this user has no home folder for trials: set HOME or {VARIABLE} to a folder"
        )
    return folder


@dataclass(frozen=True)
class Conditions:
    """What trials must share to be compared; others in the same journal are passed over."""

    space: str
    tvm: str
    threads: int
    data: Mapping[str, Any]
    device: str = "local"

    def describe(self) -> dict[str, Any]:
        """The fields of a journal's line that say so."""
        return {
            "space": self.space,
            "tvm": self.tvm,
            "threads": self.threads,
            "data": dict(self.data),
            "device": self.device,
        }


class Trial(msgspec.Struct):
    """What a line says of a trial, beside the conditions that it was made under."""

    workload: dict[str, Any]
    decisions: dict[str, int | float | str | bool]
    seconds: Annotated[float, Meta(ge=0, le=1e12)]
    microseconds: Microseconds | None
    reference_microseconds: Microseconds | None
    failure: Annotated[str, Meta(min_length=1)] | None

    def __post_init__(self) -> None:
        if (self.microseconds is None) == (self.failure is None):
            raise ValueError("a trial has either microseconds or a failure")

    @property
    def outcome(self) -> Outcome:
        """What came of it."""
        return Outcome(self.microseconds, self.failure, self.seconds)


class Journal:
    """The trials of one workload under some conditions; held by one run at a time."""

    def __init__(
        self, folder: Path, target: Hardware, workload: Workload, conditions: Conditions
    ) -> None:
        """TuneError where the folder cannot be written, or another run holds the journal.

        A line that is no trial stays and does not count, with one RecordWarning for all of them.
        """
        self.path = path_of(folder, target, workload)
        self._head = {"workload": workload.to_dict(), **conditions.describe()}
        self._size = 0
        # Microseconds of the untuned kernel when the first of these trials were related to it.
        self.reference: float | None = None
        self.known: dict[Key, Outcome] = {}
        self.decisions: dict[Key, Decisions] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            self._lock()
            self._read()
        except BaseException:
            self.close()
            raise

    def add(self, decisions: Decisions, outcome: Outcome) -> None:
        """Keep one trial, through to the disk; TuneError where that fails."""
        line = {
            **self._head,
            "decisions": dict(decisions),
            "microseconds": outcome.microseconds,
            "reference_microseconds": self.reference,
            "failure": outcome.cause,
            "seconds": round(outcome.seconds, 4),
        }
        left = json.dumps(line).encode() + b"\n"
        whole = self._size + len(left)
        try:
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise TuneError(
                f"{self.path}: a trial cannot be kept: {error.strerror or error}; the "
                f"{len(self.known)} trials before it are there. Make room and run the same "
                f"command again: it goes on from them"
            ) from error
        self._size = whole
        self._keep(decisions, outcome)

    def close(self) -> None:
        """Let another run have the journal."""
        os.close(self._file)

    def _keep(self, decisions: Decisions, outcome: Outcome) -> None:
        self.known[key_of(decisions)] = outcome
        self.decisions[key_of(decisions)] = decisions

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TuneError(
                f"{self.path} is being written by another tuning run; wait for its end, or give "
                f"this one a folder of its own with --work-dir DIR"
            ) from error

    def _read(self) -> None:
        """Take in the trials that fit; cut what a killed run left half written."""
        text = self.path.read_bytes()
        self._size = text.rfind(b"\n") + 1
        if self._size < len(text):
            os.ftruncate(self._file, self._size)
        problems = []
        for number, line in enumerate(text[: self._size].split(b"\n")[:-1], 1):
            try:
                self._read_line(line)
            except (msgspec.MsgspecError, RecursionError) as error:
                problems.append(Problem(f"line {number}", f"it is no trial: {error}"))
        if problems:
            warn_skipped(self.path, problems)

    def _read_line(self, line: bytes) -> None:
        trial = msgspec.json.decode(line, type=Trial)
        found = msgspec.json.decode(line)
        if any(found.get(name) != value for name, value in self._head.items()):
            return  # made under other conditions
        self._keep(trial.decisions, trial.outcome)
        if self.reference is None:
            self.reference = trial.reference_microseconds


def path_of(folder: Path, target: Hardware, workload: Workload) -> Path:
    """Where the trials of one workload on one target are kept."""
    described = json.dumps(workload.to_dict(), sort_keys=True).encode()
    digest = hashlib.sha256(described).hexdigest()[:12]
    return folder / target.name / f"{workload.kind}-{digest}.jsonl"


def probe(folder: Path, what: str) -> None:
    """TuneError unless a file can be written in `folder`, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f".probe-{os.getpid()}"
        try:
            with path.open("wb") as file:
                file.write(b"\0" * 1024)
                file.flush()
                os.fsync(file.fileno())
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise TuneError(
            f"{what} cannot be written to {folder}: {error.strerror or error}; nothing was "
            f"measured yet. Make room there, or name another folder"
        ) from error


def _unwritable(path: Path, error: OSError) -> TuneError:
    return TuneError(
        f"{error.filename or path}: trials cannot be kept there: {error.strerror or error}; "
        f"set {VARIABLE} to a folder that can be written, or give one with --work-dir DIR"
    )
