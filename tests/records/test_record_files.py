"""A file is a head and one record a line; what is damaged costs no more than itself."""

from __future__ import annotations

import json
from pathlib import Path

import made_records as made
import pytest

from tvmlayers.records.parse import RecordFile, parse, render

RECORDS = [made.dense(m=m) for m in (1, 16, 128)]
TEXT = render(made.TARGET, "dense", RECORDS)


def look(text: str, target: str | None = made.TARGET, kind: str | None = "dense") -> RecordFile:
    return parse(Path("dense.json"), text, target, kind)


def test_file_is_json_with_one_record_a_line_in_order() -> None:
    text = render(made.TARGET, "dense", reversed(RECORDS))
    assert text == TEXT
    lines = text.splitlines()
    assert lines[0] == "{"
    head = '"format": "tvmlayers-records", "format_version": 1, "target": "x86-64-v3", '
    assert lines[1] == head + '"kind": "dense",'
    assert lines[2] == '"records": ['
    assert [line.rstrip(",") for line in lines[3:6]] == [each.to_line() for each in RECORDS]
    assert lines[6:] == ["]}"]
    assert len(json.loads(text)["records"]) == 3


@pytest.mark.parametrize("records", [[], RECORDS])
def test_rendered_file_reads_back(records: list[made.Record]) -> None:
    found = look(render(made.TARGET, "dense", records))
    assert found.records == records
    assert found.problems == []
    assert (found.target, found.kind) == (made.TARGET, "dense")


def test_reformatted_file_reads_back() -> None:
    found = look(json.dumps(json.loads(TEXT), indent=4))
    assert found.records == RECORDS
    assert found.problems == []


def test_one_bad_record_leaves_the_others_and_is_named_by_its_line() -> None:
    bad = TEXT.replace('"trials": 64', '"trials": "many"', 1)
    found = look(bad)
    assert found.records == RECORDS[1:]
    (problem,) = map(str, found.problems)
    assert problem.startswith("line 4: dense 1x768x3072:float32:gelu: trials")
    assert found.kept == [bad.splitlines()[3].rstrip(",")]


def test_element_that_is_no_object_leaves_the_others() -> None:
    found = look(TEXT.replace('"records": [', '"records": [\n17,\n"x",', 1))
    assert found.records == RECORDS
    assert found.kept == ["17", '"x"']
    assert [problem.where for problem in found.problems] == ["line 4", "line 5"]


@pytest.mark.parametrize("cut", [2, 3, 5, 40, 300])
def test_truncated_file_gives_its_whole_records(cut: int) -> None:
    text = TEXT[:-cut]
    found = look(text)
    assert found.damaged
    whole = [record for record in RECORDS if record.to_line() in text]
    assert found.records == whole
    assert len(whole) >= 2


def test_conflict_of_two_branches_gives_the_records_of_both() -> None:
    lines = TEXT.splitlines()
    other = made.dense(m=512).to_line()
    marked = [*lines[:5], "<<<<<<< HEAD", lines[5], "=======", other, ">>>>>>> branch", lines[6]]
    found = look("\n".join(marked))
    assert found.records == [*RECORDS, made.dense(m=512)]
    assert [problem.where for problem in found.problems[1:]] == ["line 6", "line 8", "line 10"]


def test_bytes_that_are_no_text_cost_their_record_only(tmp_path: Path) -> None:
    from tvmlayers.records.parse import read

    path = tmp_path / "dense.json"
    path.write_bytes(TEXT.encode().replace(b'"gemm"', b'"\xff\xfe"', 1))
    found = read(path)
    assert found.records == RECORDS[1:]
    assert "space is a name" in found.problems[0].reason


@pytest.mark.parametrize("text", ["", "\0" * 100, "{", "not json", TEXT[:90], "[" * 100_000])
def test_file_without_a_head_is_damaged_as_a_whole(text: str) -> None:
    found = look(text)
    assert found.damaged
    assert found.records == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "the file is none of records"),
        ('{"format": "other"}', "the file is none of records"),
        (TEXT.replace('"format_version": 1', '"format_version": 2'), "update tvmlayers"),
        (TEXT.replace(made.TARGET, "sapphirerapids", 1), "for target 'sapphirerapids'"),
        (TEXT.replace('"kind": "dense"', '"kind": "softmax"'), "for kind 'softmax'"),
        (TEXT.replace('"kind"', '"note": 1, "kind"'), "head has"),
        ('{"format": "tvmlayers-records", "format_version": 1}', "head has"),
    ],
)
def test_foreign_file_has_no_records_and_a_reason(text: str, reason: str) -> None:
    found = look(text)
    assert reason in found.foreign
    assert found.records == found.kept == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TEXT.replace(made.TARGET, "../../etc", 1), "no name"),
        (TEXT.replace(f'"{made.TARGET}"', "[1]", 1), "no name"),
        (TEXT.replace('"kind": "dense"', '"kind": ["dense"]'), "unknown"),
        (TEXT.replace('"kind": "dense"', '"kind": "conv"'), "unknown"),
        (json.dumps({**json.loads(TEXT), "records": {}}), "no list"),
    ],
)
def test_head_that_cannot_be_is_foreign_wherever_it_lies(text: str, reason: str) -> None:
    assert reason in look(text, None, None).foreign
