"""`tvmlayers doctor` says what there is, what is missing and how to get it."""

from __future__ import annotations

import json
import sys

import pytest

from tvmlayers import cli, targets

Output = pytest.CaptureFixture[str]


def findings(capsys: Output, status: int = 0) -> dict[str, dict[str, object]]:
    assert cli.main(["doctor", "--json"]) == status
    return {row["what"]: row for row in json.loads(capsys.readouterr().out)}


def test_what_runs_here_is_named(capsys: Output) -> None:
    found = findings(capsys)
    assert found["run artefacts"]["ok"]
    assert str(found["CPU"]["found"]).startswith(targets.native().name)
    assert str(found["CPUs to use"]["found"]).startswith(f"{targets.usable_cpus()} of")


def test_what_is_missing_comes_with_the_way_to_get_it(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setitem(sys.modules, "ziglang", None)
    found = findings(capsys)
    assert not found["compile"]["ok"]
    assert "gcc" in str(found["compile"]["found"])
    for row in found.values():
        assert row["ok"] or row["advice"] or "needs" in str(row["found"]), row


def test_people_read_a_table(capsys: Output) -> None:
    assert cli.main(["doctor"]) == 0
    assert "run artefacts" in capsys.readouterr().out


def test_a_machine_that_can_do_nothing_is_a_failure(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvmlayers.errors import MissingDependencyError
    from tvmlayers.runtime import ffi

    def missing() -> None:
        raise MissingDependencyError("TVM's runtime library does not load; reinstall apache-tvm")

    monkeypatch.setattr(ffi, "load_runtime", missing)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "")
    monkeypatch.setenv("CXX", "")
    found = findings(capsys, status=1)
    assert found["run artefacts"]["advice"] == "reinstall apache-tvm"
