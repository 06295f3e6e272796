from __future__ import annotations

import dataclasses
import json
import resource
from pathlib import Path
from typing import Any

import pytest

from tvmlayers import targets
from tvmlayers.errors import RecordWarning, TuneError
from tvmlayers.tune.cases import parse
from tvmlayers.tune.journal import Conditions, Journal, path_of, probe
from tvmlayers.tune.outcome import Outcome, key_of

TARGET = targets.resolve("x86-64-v3")
WORKLOAD = parse("embedding", "5000x64x320").workload
CONDITIONS = Conditions("lookup", "0.27.0", 2, {"cold": False, "distribution": "uniform"})


def opened(folder: Path, **changes: Any) -> Journal:
    return Journal(folder, TARGET, WORKLOAD, dataclasses.replace(CONDITIONS, **changes))


def filled(folder: Path, count: int = 3) -> Path:
    """The path of a journal with some trials."""
    journal = opened(folder)
    for grain in range(count):
        journal.add({"grain_kib": grain}, Outcome(10.0 + grain, None, 0.5))
    journal.close()
    return journal.path


def test_trials_come_back(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.add({"grain_kib": 12, "split": "rows"}, Outcome(12.5, None, 0.25))
    journal.add({"grain_kib": 24, "split": "rows"}, Outcome(None, "crashed: signal 11", 0.5))
    journal.close()
    again = opened(tmp_path)
    assert again.known == journal.known
    assert next(iter(again.decisions.values())) == {"grain_kib": 12, "split": "rows"}


def test_half_a_line_of_a_killed_run_is_cut(tmp_path: Path) -> None:
    path = filled(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"workload": {"ki')
    journal = opened(tmp_path)
    assert len(journal.known) == 3
    journal.add({"grain_kib": 99}, Outcome(1.0))
    journal.close()
    assert path.read_bytes().startswith(whole + b'{"workload": {"kind"')
    assert len(opened(tmp_path).known) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"tvm": "0.28.0"},
        {"threads": 4},
        {"data": {"cold": True, "distribution": "uniform"}},
        {"space": "rows"},
        {"device": "board"},
    ],
)
def test_trials_under_other_conditions_are_passed_over(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = filled(tmp_path)
    journal = opened(tmp_path, **changes)
    assert journal.known == {}
    journal.add({"grain_kib": 1}, Outcome(1.0))
    journal.close()
    assert len(path.read_text().splitlines()) == 4
    assert len(opened(tmp_path).known) == 3


def test_lines_that_are_no_trials_stay_and_do_not_count(tmp_path: Path) -> None:
    path = filled(tmp_path)
    path.write_bytes(b"hello\n[1, 2]\n{}\n\xff\xfe\n" + path.read_bytes())
    with pytest.warns(RecordWarning, match="line 1: it is no trial.*; and 1 more"):
        assert len(opened(tmp_path).known) == 3
    assert path.read_bytes().startswith(b"hello\n")


def test_a_journal_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    with pytest.raises(TuneError, match="another tuning run"):
        opened(tmp_path)
    journal.close()
    opened(tmp_path).close()


def test_a_full_disk_loses_no_trial_and_says_where_they_are(tmp_path: Path) -> None:
    path = filled(tmp_path)
    size = path.stat().st_size
    journal = opened(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        with pytest.raises(TuneError, match="cannot be kept") as caught:
            journal.add({"grain_kib": 99}, Outcome(1.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(path) in str(caught.value)
    assert path.stat().st_size == size
    journal.add({"grain_kib": 99}, Outcome(1.0))  # there is room again
    journal.close()
    assert key_of({"grain_kib": 99}) in opened(tmp_path).known


def test_each_workload_and_target_has_a_file_of_its_own(tmp_path: Path) -> None:
    other = WORKLOAD.at(640)
    paths = {
        path_of(tmp_path, TARGET, WORKLOAD),
        path_of(tmp_path, TARGET, other),
        path_of(tmp_path, targets.resolve("x86-64-v4"), WORKLOAD),
    }
    assert len(paths) == 3
    assert path_of(tmp_path, TARGET, WORKLOAD).parent == tmp_path / "x86-64-v3"


def test_a_folder_that_cannot_be_written_is_found_before(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(TuneError, match="nothing was measured yet"):
        probe(blocked / "work", "trials")
    probe(tmp_path / "free", "trials")
    assert list((tmp_path / "free").iterdir()) == []


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("microseconds", "0"),
        ("microseconds", "-1"),
        ("microseconds", "1e-320"),
        ("microseconds", "1e999"),
        ("microseconds", "9" * 400),
        ("microseconds", "null"),
        ("reference_microseconds", "0.0"),
        ("seconds", '"1"'),
        ("failure", "3"),
        ("failure", '""'),
        ("failure", '"with a time"'),
        ("decisions", "[]"),
        ("decisions", '{"grain_kib": [1]}'),
        ("data", "[" * 10_000 + "]" * 10_000),
    ],
)
def test_a_line_with_a_wrong_field_is_skipped_with_a_warning(
    tmp_path: Path, field: str, wrong: str
) -> None:
    path = filled(tmp_path)
    *good, last = path.read_text().splitlines()
    key = json.dumps(field)
    fields = {json.dumps(name): json.dumps(value) for name, value in json.loads(last).items()}
    bad = ", ".join(f"{name}: {wrong if name == key else fields[name]}" for name in fields)
    path.write_text("\n".join([*good, f"{{{bad}}}", ""]))
    with pytest.warns(RecordWarning, match=f"{path}: skipped line 3: it is no trial"):
        journal = opened(tmp_path)
    assert len(journal.known) == 2
    assert journal.reference is None
    journal.close()
