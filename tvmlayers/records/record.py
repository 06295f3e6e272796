"""A record: what tuning decided for one kernel on one target, as one line of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from tvmlayers.errors import RecordError, TvmLayersError
from tvmlayers.workload import KINDS, Workload

Decision = int | float | str | bool
Key = tuple[Workload, str]
Identity = tuple[Workload, str, str]

FIELDS = (
    *("workload", "space", "decisions", "microseconds", "untuned_microseconds"),
    *("trials", "threads", "tvm", "date"),
)
OPTIONAL = ("data", "of_limit", "modelled")


@dataclass(frozen=True)
class Record:
    """The decisions of `space` that were fastest for one workload, and how that was found out.

    microseconds, untuned_microseconds: one call, with these decisions and with the analytic ones,
    on `threads` threads. tvm: the version of apache-tvm. date: ISO, such as "2026-11-22". data:
    what it was measured with, such as {"distribution": "zipf", "length": 20, "cold": False}.
    of_limit: the fraction of the machine's limit (multiply-adds or bytes a second, whichever binds)
    that was reached, where the limit was measured in the same run. modelled: what gave the times
    where nothing was measured, such as "llvm-mca 19.1.7"; empty for times that were measured.
    """

    workload: Workload
    target: str
    space: str
    decisions: Mapping[str, Decision] = field(hash=False)
    microseconds: float
    untuned_microseconds: float
    trials: int
    threads: int
    tvm: str
    date: str
    data: Mapping[str, Decision] = field(default_factory=dict, hash=False)
    of_limit: float | None = None
    modelled: str = ""

    def __post_init__(self) -> None:
        if not is_plain_name(self.target):
            raise RecordError(f"target is a name that a folder can have, got {self.target!r}")
        for name in ("space", "tvm"):
            _check_name(name, getattr(self, name))
        if self.modelled != "":
            _check_name("modelled", self.modelled)
        for name, value in self.workload.traits:
            _check_name(name, value)
        for name in ("microseconds", "untuned_microseconds"):
            object.__setattr__(self, name, _positive(name, getattr(self, name)))
        if self.of_limit is not None:
            object.__setattr__(self, "of_limit", _positive("of_limit", self.of_limit))
        for name, least in (("trials", 0), ("threads", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise RecordError(f"{name} is a whole number of at least {least}, got {value!r}")
        check_date("date", self.date)
        object.__setattr__(self, "decisions", _checked("decisions", "decision", self.decisions))
        object.__setattr__(self, "data", _checked("data", "condition", self.data))

    @property
    def key(self) -> Key:
        """What a record decides: the workload and the space. One record a key is used."""
        return self.workload, self.space

    @property
    def identity(self) -> Identity:
        """The key and the TVM version: records of two versions may share a file."""
        return self.workload, self.space, self.tvm

    @property
    def speedup(self) -> float:
        """How many times as fast as untuned."""
        return self.untuned_microseconds / self.microseconds

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the target and the workload's kind are in the head of the file."""
        made: dict[str, Any] = {name: getattr(self, name) for name in FIELDS}
        made["workload"] = dict([*self.workload.sizes, *self.workload.traits])
        if self.data:
            made["data"] = self.data
        if self.of_limit is not None:
            made["of_limit"] = self.of_limit
        if self.modelled:
            made["modelled"] = self.modelled
        return made

    def to_line(self) -> str:
        """The record as one line of JSON."""
        return json.dumps(self.to_dict())

    @staticmethod
    def from_line(line: str, target: str, kind: str) -> Record:
        """The record that `to_line` wrote; RecordError where it is not one."""
        try:
            given = DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{_cut(line)} is not valid JSON: {error}") from error
        return Record.from_dict(given, target, kind)

    @staticmethod
    def from_dict(given: object, target: str, kind: str) -> Record:
        """The record that `to_dict` described; RecordError where it is not one."""
        if not isinstance(given, dict):
            raise RecordError(f"a record is a JSON object, got {_cut(json.dumps(given))}")
        lacks = [name for name in FIELDS if name not in given]
        extra = [name for name in given if name not in (*FIELDS, *OPTIONAL)]
        if lacks or extra:
            raise RecordError(
                f"a record has the fields {', '.join(FIELDS)}; "
                f"lacking: {', '.join(lacks) or 'none'}, unknown: {_cut(repr(extra))}"
            )
        workload = given["workload"]
        if not isinstance(workload, dict) or "kind" in workload:
            raise RecordError(
                f"workload is an object of sizes and traits, without its kind, got {workload!r}"
            )
        try:
            made = Workload.from_dict({**workload, "kind": kind})
        except TvmLayersError as error:
            raise RecordError(str(error)) from error
        try:
            return Record(**{**given, "workload": made, "target": target})
        except RecordError as error:
            raise RecordError(f"{made}: {error}") from error


def order(record: Record) -> tuple[Any, ...]:
    """Sort key of a file: traits, then sizes with the batch last, so that neighbours meet."""
    workload = record.workload
    batch = KINDS[workload.kind].batch
    return (
        workload.kind,
        tuple(value for _, value in workload.traits),
        tuple(value for name, value in workload.sizes if name != batch),
        workload.batch,
        record.space,
        record.tvm,
    )


def replaced(old: Record, new: Record) -> Record:
    """`new` in the place of `old`, unless it is only modelled and the old one was measured."""
    return old if new.modelled and not old.modelled else new


def newest(first: Record, second: Record) -> Record:
    """The one of the later date; of the same day, the faster one; of two equals, the first.

    One that was measured before one that was modelled, whenever that was.
    """
    if bool(first.modelled) != bool(second.modelled):
        return replaced(first, second)
    if (second.date, -second.microseconds) > (first.date, -first.microseconds):
        return second
    return first


def is_plain_name(name: object) -> bool:
    """Whether a target's name can be the name of a folder."""
    return _is_text(name) and "/" not in str(name) and str(name)[0] != "."


def check_date(name: str, value: object) -> None:
    """RecordError unless `value` is a date such as "2026-11-22"."""
    try:
        good = isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        good = False
    if not good:
        raise RecordError(f"{name} is an ISO date such as 2026-11-22, got {value!r}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
"""JSON without Python's NaN and Infinity."""


def _checked(what: str, one: str, given: object) -> dict[str, Decision]:
    """The names and values of `what`; `one` of them is called so."""
    if not isinstance(given, Mapping):
        raise RecordError(f"{what} is a mapping of names to values, got {given!r}")
    for name, value in given.items():
        _check_name(f"a {one}'s name", name)
        if isinstance(value, str):
            _check_name(f"{one} {name}", value)
        elif type(value) not in (int, float, bool) or not _is_finite(value):
            raise RecordError(f"{one} {name} is a finite number, a string or a bool, got {value!r}")
    return dict(given)


def _positive(name: str, value: object) -> float:
    if type(value) not in (int, float) or not _is_finite(value) or value <= 0:  # type: ignore[operator]
        raise RecordError(f"{name} is a positive number, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of 309 digits or more
        return False


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _check_name(name: str, value: object) -> None:
    if not _is_text(value):
        raise RecordError(f"{name} is a name in printable characters, got {value!r}")


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."
