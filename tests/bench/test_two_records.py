"""What two folders of records hold for the same kernels, timed in turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import two_records
from tvmlayers import records
from tvmlayers.records import Record
from tvmlayers.schedule import analytic
from tvmlayers.targets import native
from tvmlayers.tune.journal import path_of
from tvmlayers.workload import Workload


def record(k: int, **decided: str | int) -> Record:
    workload = Workload.make("dense", m=4, k=k, n=64, dtype="float32", activation="relu")
    return Record(
        workload=workload,
        target=native().name,
        space="gemm",
        decisions={**analytic(workload, native()), **decided},
        microseconds=1.0,
        untuned_microseconds=1.0,
        trials=8,
        threads=1,
        tvm=records.installed_tvm(),
        date="2026-11-28",
        data={"cold": False},
    )


def test_kernels_of_both_are_compared_and_equal_decisions_count_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_records, "ROUNDS", 1)
    records.add([record(16), record(32), record(48)], tmp_path / "a")
    records.add([record(16), record(32, k_unroll=8)], tmp_path / "b")
    path = tmp_path / "found.json"
    given = [str(tmp_path / "a"), str(tmp_path / "b"), "--threads", "1", "--json", str(path)]
    kept = path_of(tmp_path / "work", native(), record(16).workload)
    kept.parent.mkdir(parents=True)
    kept.write_text('{"seconds": 0.25}\n{"seconds": 0.75}\n{"sec')
    given += ["--journals", str(tmp_path / "work")]
    assert two_records.main(given) == 0
    found = json.loads(path.read_text())
    assert [row["workload"] for row in found["rows"]] == [
        "dense 4x16x64:float32:relu",
        "dense 4x32x64:float32:relu",
    ]
    assert found["rows"][0]["speed"] == 1
    assert [row.get("seconds_a_trial") for row in found["rows"]] == [0.5, None]
    assert found["rows"][1]["speed"] > 0
    assert found["conditions"]["native"] == native().name
    assert "geometric mean" in capsys.readouterr().out


def test_folders_that_share_nothing_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records.add([record(16)], tmp_path / "a")
    records.add([record(32)], tmp_path / "b")
    assert two_records.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "share no dense kernel" in capsys.readouterr().err
