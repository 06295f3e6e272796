"""`tvmlayers records` lists, merges, prunes and compares, in tables or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_records as made
import pytest

from tvmlayers import cli, records, targets
from tvmlayers.records.folders import file_of

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(records, "shipped_folder", lambda: tmp_path / "shipped")


def run(capsys: Output, *argv: str) -> str:
    """What `tvmlayers records ARGV` prints."""
    capsys.readouterr()
    assert cli.main(["records", *argv]) == 0
    return capsys.readouterr().out


def run_json(capsys: Output, *argv: str) -> Any:
    return json.loads(run(capsys, *argv, "--json"))


def fails(capsys: Output, *argv: str) -> str:
    capsys.readouterr()
    assert cli.main(["records", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_no_records_are_no_failure(user: Path, capsys: Output) -> None:
    assert run(capsys, "list") == "no records\n"
    assert run_json(capsys, "list") == []
    assert run_json(capsys, "prune") == []


def test_list_gives_the_users_and_the_shipped(user: Path, tmp_path: Path, capsys: Output) -> None:
    records.add([made.dense(), made.dense(m=1, tvm="0.26.0")])
    records.add([made.softmax()], tmp_path / "shipped")
    first, second, third = run_json(capsys, "list")
    assert (first["source"], first["workload"]["m"], first["usable"]) == ("user", 1, False)
    assert second["file"] == str(file_of(user, made.TARGET, "dense"))
    assert {**second, "workload": None} == {
        **made.dense().to_dict(),
        "workload": None,
        "name": "dense 128x768x3072:float32:gelu",
        "target": made.TARGET,
        "source": "user",
        "file": second["file"],
        "usable": True,
    }
    assert (third["source"], third["workload"]["kind"]) == ("shipped", "softmax")


def test_list_takes_a_folder_target_and_kind(tmp_path: Path, capsys: Output) -> None:
    native = made.dense(target=targets.native().name)
    other = made.softmax(target="somewhere")
    records.add([native, other], tmp_path)
    folder = ["list", "--folder", str(tmp_path)]
    assert len(run_json(capsys, *folder)) == 2
    for options, kind in (
        (["--target", "native"], "dense"),
        (["--target", "somewhere"], "softmax"),
        (["--kind", "softmax"], "softmax"),
    ):
        (row,) = run_json(capsys, *folder, *options)
        assert row["workload"]["kind"] == kind


def test_list_prints_a_table_a_file(user: Path, capsys: Output) -> None:
    odd = made.dense(space="[red]", decisions={"split": "[bold]"}, tvm="0.26.0")
    records.add([odd, made.softmax()])
    printed = run(capsys, "list")
    for word in ("dense", "softmax", "[red]:", "split=[bold]", "123.4", "1.14x", "0.26.0"):
        assert word in printed


def test_merge_reports_its_counts(tmp_path: Path, capsys: Output) -> None:
    records.add([made.dense(), made.softmax()], tmp_path / "a")
    into = tmp_path / "into"
    argv = ["merge", str(tmp_path / "a"), "--into", str(into)]
    assert f"{into}: 2 added, 0 replaced, 0 unchanged, 0 skipped" in run(capsys, *argv)
    assert run_json(capsys, *argv)["unchanged"] == 2


def test_prune_takes_the_rules_together_and_dry(user: Path, capsys: Output) -> None:
    goes = [
        made.dense(m=1, tvm="0.26.0"),
        made.dense(m=2, microseconds=999.0),
        made.dense(m=3, date="2020-01-01"),
    ]
    records.add([made.dense(), *goes])
    rules = ["prune", "--tvm", "--slower", "--before", "2026-01-01"]
    assert "3 would go" in run(capsys, *rules, "--dry-run")
    assert "0 dropped" in run(capsys, "prune")
    assert [row["workload"]["m"] for row in run_json(capsys, *rules)] == [1, 2, 3]
    assert [row["workload"]["m"] for row in run_json(capsys, "list")] == [128]


def test_prune_takes_a_version_of_tvm(user: Path, capsys: Output) -> None:
    records.add([made.dense(), made.dense(m=1, tvm="0.26.0")])
    (row,) = run_json(capsys, "prune", "--tvm", "0.26.0")
    assert row["workload"]["m"] == 128


def test_diff_prints_what_differs(tmp_path: Path, capsys: Output) -> None:
    records.add([made.dense(), made.softmax()], tmp_path / "a")
    records.add([made.dense(microseconds=61.7, decisions={"tile_rows": 8})], tmp_path / "b")
    argv = ["diff", str(tmp_path / "a"), str(tmp_path / "b")]
    found = run_json(capsys, *argv)
    assert (found["added"], len(found["removed"]), found["same"]) == ([], 1, 0)
    (change,) = found["changed"]
    assert change["ratio"] == 0.5
    assert change["decisions"]["tile_rows"] == [6, 8]
    printed = run(capsys, *argv)
    assert "0.50" in printed
    assert "0 added, 1 removed, 1 changed, 0 same" in printed


@pytest.mark.filterwarnings("default")
def test_skipped_record_is_one_line_on_stderr(user: Path, capsys: Output) -> None:
    records.add([made.dense()])
    path = file_of(user, made.TARGET, "dense")
    path.write_text(path.read_text()[:-3])
    capsys.readouterr()
    assert cli.main(["records", "list", "--json"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)) == 1
    (line,) = captured.err.splitlines()
    assert line.startswith(f"tvmlayers: warning: {path}: skipped the file is not valid JSON")


@pytest.mark.parametrize(
    "argv",
    [
        ["list", "--folder", "absent"],
        ["merge", "absent", "--into", "elsewhere"],
        ["prune", "--folder", "absent"],
        ["diff", "absent", "absent"],
    ],
)
def test_missing_source_fails_in_one_line_that_names_it(argv: list[str], capsys: Output) -> None:
    assert "absent" in fails(capsys, *argv)


def test_bad_date_fails_in_one_line(user: Path, capsys: Output) -> None:
    user.mkdir()
    assert "yesterday" in fails(capsys, "prune", "--before", "yesterday")


def test_folder_that_cannot_be_written_fails_in_one_line(tmp_path: Path, capsys: Output) -> None:
    records.add([made.dense()], tmp_path / "a")
    (tmp_path / "file").write_text("")
    argv = ["merge", str(tmp_path / "a"), "--into", str(tmp_path / "file")]
    assert "Not a directory" in fails(capsys, *argv)
