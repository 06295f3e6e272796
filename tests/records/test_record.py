"""A record is one line of JSON that reads back equal; anything else is refused with the reason."""

from __future__ import annotations

import json
import pickle
from typing import Any

import made_records as made
import pytest

from tvmlayers.records import Record, RecordError
from tvmlayers.records.record import newest, order

LINE = (
    '{"workload": {"m": 128, "k": 768, "n": 3072, "dtype": "float32", "activation": "gelu"}, '
    '"space": "gemm", "decisions": {"tile_rows": 6, "split": "rows"}, "microseconds": 123.4, '
    '"untuned_microseconds": 140.1, "trials": 64, "threads": 2, "tvm": "0.27.0.post1", '
    '"date": "2026-11-22"}'
)


def test_line_stays_as_it_was_written() -> None:
    record = Record.from_line(LINE, "sapphirerapids", "dense")
    assert record.to_line() == LINE
    assert record.target == "sapphirerapids"
    assert record.workload["k"] == 768
    assert record.speedup == pytest.approx(1.135, abs=1e-3)


@pytest.mark.parametrize("record", [made.dense(), made.softmax()])
def test_record_reads_back_equal_with_the_types_of_its_decisions(record: Record) -> None:
    back = Record.from_line(record.to_line(), record.target, record.workload.kind)
    assert back == record
    assert hash(back) == hash(record)
    assert list(map(type, back.decisions.values())) == [int, str, float, bool]
    assert pickle.loads(pickle.dumps(record)) == record


def test_a_modelled_record_says_so_and_gives_way_to_a_measured_one() -> None:
    modelled = made.dense(modelled="llvm-mca 19.1.7", date="2026-12-01", microseconds=1.0)
    line = json.loads(modelled.to_line())
    assert line["modelled"] == "llvm-mca 19.1.7"
    assert Record.from_dict(line, modelled.target, "dense") == modelled
    measured = made.dense()
    assert "modelled" not in json.loads(measured.to_line())
    assert newest(modelled, measured) == newest(measured, modelled) == measured
    assert newest(modelled, made.dense(modelled="a model")) == modelled
    with pytest.raises(RecordError, match="modelled is a name"):
        made.dense(modelled="\n")


def test_decisions_are_a_copy() -> None:
    decisions = {"tile_rows": 6}
    record = made.dense(decisions=decisions)
    decisions["tile_rows"] = 7
    assert record.decisions == {"tile_rows": 6}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"workload": 3}, "workload is an object"),
        ({"workload": {"m": 1, "kind": "dense"}}, "without its kind"),
        ({"workload": {"m": 1}}, "a workload of kind 'dense' has"),
        ({"workload": {**json.loads(LINE)["workload"], "m": 0}}, "size m"),
        ({"workload": {**json.loads(LINE)["workload"], "k": 10**400}}, "size k"),
        ({"workload": {**json.loads(LINE)["workload"], "dtype": "a\nb"}}, "printable"),
        ({"space": ""}, "space is a name"),
        ({"tvm": None}, "tvm is a name"),
        ({"decisions": [6]}, "decisions is a mapping"),
        ({"decisions": {"tile_rows": [6]}}, "decision tile_rows"),
        ({"decisions": {"tile_rows": None}}, "decision tile_rows"),
        ({"decisions": {"tile_rows": 10**400}}, "decision tile_rows"),
        ({"decisions": {"tile_rows": "\u001b[31m"}}, "decision tile_rows"),
        ({"decisions": {"": 1}}, "a decision's name"),
        ({"microseconds": 0}, "microseconds is a positive number"),
        ({"microseconds": True}, "microseconds is a positive number"),
        ({"microseconds": "123"}, "microseconds is a positive number"),
        ({"untuned_microseconds": -1.0}, "untuned_microseconds is a positive number"),
        ({"trials": -1}, "trials is a whole number of at least 0"),
        ({"threads": 0}, "threads is a whole number of at least 1"),
        ({"threads": 2.0}, "threads is a whole number of at least 1"),
        ({"date": "22.11.2026"}, "ISO date"),
        ({"date": "20261122"}, "ISO date"),
        ({"date": "2026-13-01"}, "ISO date"),
        ({"note": "mine"}, "unknown: ['note']"),
    ],
)
def test_wrong_field_is_refused_by_name(change: dict[str, Any], reason: str) -> None:
    line = json.dumps({**json.loads(LINE), **change})
    with pytest.raises(RecordError) as caught:
        Record.from_line(line, "sapphirerapids", "dense")
    assert reason in str(caught.value)


@pytest.mark.parametrize("field", list(json.loads(LINE)))
def test_lacking_field_is_refused_by_name(field: str) -> None:
    given = json.loads(LINE)
    del given[field]
    with pytest.raises(RecordError, match=f"lacking: {field},"):
        Record.from_dict(given, "sapphirerapids", "dense")


@pytest.mark.parametrize("line", ["", "[1]", "null", LINE[:50], "[" * 100_000, LINE + "x"])
def test_line_that_is_no_object_is_refused(line: str) -> None:
    with pytest.raises(RecordError):
        Record.from_line(line, "sapphirerapids", "dense")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_times_are_finite(number: str) -> None:
    with pytest.raises(RecordError):
        Record.from_line(LINE.replace("123.4", number), "sapphirerapids", "dense")


@pytest.mark.parametrize("target", ["", "a/b", "..", ".hidden", "a\0b"])
def test_target_that_can_name_no_folder_is_refused(target: str) -> None:
    with pytest.raises(RecordError, match="target is a name"):
        made.dense(target=target)


def test_order_is_traits_then_sizes_with_the_batch_last() -> None:
    expected = [
        made.dense(m=1, k=64, n=10),
        made.dense(m=128, k=64, n=10),
        made.dense(m=1, k=64, n=500),
        made.dense(m=1, k=640, n=10),
        made.dense(m=1, k=640, n=10, space="rows"),
    ]
    shuffled = [expected[place] for place in (3, 1, 4, 0, 2)]
    assert sorted(shuffled, key=order) == expected


def test_newest_is_of_the_later_date_then_the_faster() -> None:
    old, new = made.dense(date="2026-11-21", microseconds=1.0), made.dense()
    fast = made.dense(microseconds=100.0)
    assert newest(old, new) is newest(new, old) is new
    assert newest(new, fast) is newest(fast, new) is fast
    assert newest(new, made.dense()) is new
