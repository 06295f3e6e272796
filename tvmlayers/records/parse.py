"""A file of records and its text: a head, then one record a line, each judged by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tvmlayers.errors import RecordError
from tvmlayers.records.record import DECODER, Record, is_plain_name, order
from tvmlayers.workload import KINDS

FORMAT = "tvmlayers-records"
FORMAT_VERSION = 1

LIST = re.compile(r'"records"\s*:\s*\[')
GAP = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class Entry:
    """One element of the list: a record, or the reason why it is none.

    text: the JSON as it is in the file; empty where it is not JSON either.
    """

    where: str
    text: str
    record: Record | None
    reason: str = ""


class Problem(NamedTuple):
    """Why something is skipped; where: "line 7", or nothing where it is the whole file."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" if self.where else self.reason


@dataclass(frozen=True)
class RecordFile:
    """What was found in a file.

    foreign: why the whole file is not for us; it then has no entries.
    damaged: why it is not JSON as a whole; the entries are those that could be recovered.
    """

    path: Path
    target: str = ""
    kind: str = ""
    entries: tuple[Entry, ...] = ()
    foreign: str = ""
    damaged: str = ""

    @property
    def placed(self) -> list[tuple[str, Record]]:
        """The readable records, of any TVM version, with where each stands."""
        return [(entry.where, entry.record) for entry in self.entries if entry.record is not None]

    @property
    def records(self) -> list[Record]:
        """The readable records as they are in the file, of any TVM version."""
        return [record for _, record in self.placed]

    @property
    def kept(self) -> list[str]:
        """The JSON of what is no record, such as one of a later tvmlayers; rewriting keeps it."""
        return [entry.text for entry in self.entries if entry.record is None and entry.text]

    @property
    def problems(self) -> list[Problem]:
        """What is skipped: first of the whole file, then single entries."""
        whole = [Problem("", reason) for reason in (self.foreign, self.damaged) if reason]
        return whole + [Problem(e.where, e.reason) for e in self.entries if e.record is None]


def read(path: Path, target: str | None = None, kind: str | None = None) -> RecordFile:
    """What is in the file at `path`; OSError where it cannot be read.

    target, kind: those that the head of the file must name; None takes any.
    """
    # Bytes that are no UTF-8 spoil the record that they are in, not the file.
    return parse(path, path.read_bytes().decode("utf-8", "surrogateescape"), target, kind)


def parse(path: Path, text: str, target: str | None, kind: str | None) -> RecordFile:
    """What `text` says, which was found at `path`."""
    damaged = ""
    try:
        head = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        damaged = f"the file is not valid JSON ({error}); only whole records are read"
        try:
            head = _head_alone(text)
        except (ValueError, RecursionError):
            return RecordFile(path, damaged=f"the file is not valid JSON ({error})")
    if reason := _foreign(head, target, kind):
        return RecordFile(path, foreign=reason)
    target, kind = head["target"], head["kind"]
    entries = tuple(_judge(*found, target, kind) for found in _scan(text))
    return RecordFile(path, target, kind, entries, damaged=damaged)


def render(target: str, kind: str, records: Iterable[Record], kept: Iterable[str] = ()) -> str:
    """The text of a file: records in their order, then `kept` as it is."""
    head = f'"format": "{FORMAT}", "format_version": {FORMAT_VERSION}'
    lines = [record.to_line() for record in sorted(records, key=order)]
    return (
        f'{{\n{head}, "target": {json.dumps(target)}, "kind": {json.dumps(kind)},\n"records": [\n'
        + ",\n".join([*lines, *kept])
        + "\n]}\n"
    )


def _head_alone(text: str) -> Any:
    """The head of a file whose list cannot be read as a whole; ValueError without one."""
    begin = LIST.search(text)
    if begin is None:
        raise ValueError("no list of records")
    return DECODER.decode(f"{text[: begin.end()]}]}}")


def _foreign(head: object, target: str | None, kind: str | None) -> str:
    """Why a file with this head is not for us; empty if it is."""
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        return f'the file is none of records: expected "format": "{FORMAT}"'
    if head.get("format_version") != FORMAT_VERSION:
        return (
            f"the file has format_version {head.get('format_version')!r}, this tvmlayers reads "
            f"{FORMAT_VERSION}; update tvmlayers or tune again into another folder"
        )
    expected = {"format", "format_version", "target", "kind", "records"}
    if set(head) != expected:
        return f"the file's head has {', '.join(sorted(expected))}; got {', '.join(sorted(head))}"
    for name, wanted in (("target", target), ("kind", kind)):
        if wanted is not None and head[name] != wanted:
            return f"the file is for {name} {head[name]!r}, where it lies it should be {wanted!r}"
    if not is_plain_name(head["target"]):
        return f"the file's target {head['target']!r} is no name"
    if not isinstance(head["kind"], str) or head["kind"] not in KINDS:
        return f"the file's kind {head['kind']!r} is unknown; known: {', '.join(sorted(KINDS))}"
    return "" if isinstance(head["records"], list) else "the file's records are no list"


def _scan(text: str) -> Iterator[tuple[str, str, object]]:
    """Each element as (where, its JSON, its value); a line that is no JSON as (where, "", line)."""
    begin = LIST.search(text)
    if begin is None:  # records is a list, so only its name is spelt with escapes
        return
    at, line, counted = begin.end(), 1, 0
    while True:
        gap = GAP.match(text, at)
        at = gap.end() if gap else at
        if at == len(text) or text[at] == "]":
            return
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
            yield f"line {line}", "", text[at:end]
        else:
            written = text[at:end]
            yield f"line {line}", json.dumps(value) if "\n" in written else written, value
        at = end


def _judge(where: str, text: str, value: object, target: str, kind: str) -> Entry:
    try:
        if text:
            return Entry(where, text, Record.from_dict(value, target, kind))
        return Entry(where, text, Record.from_line(str(value), target, kind))
    except RecordError as error:
        return Entry(where, text, None, str(error))
