"""`tvmlayers explain` on files and on models that come with the package; roofs are given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tvmlayers as tl
from tvmlayers import cli

Output = pytest.CaptureFixture[str]
ROOFS = ["--gflops", "300", "--gbytes", "200,60,30", "--threads", "1"]


def explained(capsys: Output, *argv: str) -> dict[str, object]:
    assert cli.main(["explain", *argv, *ROOFS, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_saved_model_and_its_artefact_for_any_cpu_are_explained_alike(
    tmp_path: Path, capsys: Output
) -> None:
    model = tl.Sequential([tl.Embedding(30, 4, input_length=3), tl.Flatten(), tl.Dense(2)])
    saved, artefact = tmp_path / "model.safetensors", tmp_path / "model.tvml"
    model.save(saved)
    tl.compile(model, target="neoverse-n1").save(artefact)
    found = explained(capsys, str(saved), "--batch", "7")
    assert found == explained(capsys, str(artefact), "--batch", "7")
    assert [row["layer"] for row in found["rows"]] == ["embedding", "dense"]
    assert found["batch"] == 7
    assert found["roofs"]["flops"]["float32"] == 300e9


@pytest.mark.parametrize("name", ["embedding", "dense"])
def test_models_of_the_package_are_there_by_name(name: str, capsys: Output) -> None:
    assert cli.main(["explain", name, *ROOFS]) == 0
    printed = capsys.readouterr().out
    assert f"a {name}" in printed
    assert "with 1 thread" in printed


def test_one_rate_serves_all_levels(capsys: Output) -> None:
    argv = ["explain", "embedding", "--gflops", "1", "--gbytes", "2", "--json"]
    assert cli.main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["roofs"]["levels"] == [{"name": "memory", "holds": None, "rate": 2e9}]


def test_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "roofs.svg"
    assert cli.main(["explain", "dense", *ROOFS, "--plot", str(path)]) == 0
    assert "dense_1" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["dense", "--gflops", "1"], "given together"),
        (["dense", "--gflops", "1", "--gbytes", "1,2"], "got 2 numbers"),
        (["dense", "--plot", "roofs.txt"], "a plot is a file of"),
        (["absent.tvml"], "absent.tvml"),
        ([__file__], "test_explain_command.py"),
    ],
)
def test_what_cannot_be_explained_is_said_in_one_line(
    argv: list[str], said: str, capsys: Output
) -> None:
    assert cli.main(["explain", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize("rates", ["0", "1,x", "nan"])
def test_a_rate_is_a_number_above_0(rates: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["explain", "dense", "--gflops", "1", "--gbytes", rates])
    assert stop.value.code == 2
    assert "above 0" in capsys.readouterr().err
