from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tuning_folders import Folders

import tvmlayers as tl
from tvmlayers.cli import main
from tvmlayers.cli.tuning_display import duration

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture
def session(pretend: Callable[[str], None]) -> None:
    pretend("Fake")


def options(folders: Folders) -> list[str]:
    return ["--work-dir", str(folders.work), "--records", str(folders.records), "--threads", "1"]


def test_help_names_the_danger_of_rpc(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["tune", "--help"])
    printed = capsys.readouterr().out
    assert caught.value.code == 0
    assert "trusts its network" in printed
    assert "127.0.0.1" in printed
    assert "100000" in printed


def test_cases_by_hand_become_a_table_and_a_few_lines(
    folders: Folders, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tune", "--dense", "4x64x64:relu", "--bag", "1000x64x8x10:sum"]
    assert main([*arguments, "--trials", "20", *options(folders)]) == 0
    printed, told = capfd.readouterr()
    assert "dense 4x64x64:float32:relu" in printed
    assert "bag 80x1000x64:float32:sum length 10" in printed
    lines = told.splitlines()
    assert lines[0] == "1/2 dense 4x64x64:float32:relu: 20 trials"
    assert all("best" in line for line in lines[1:3])
    assert any("20/20" in line and "% of the limit" in line for line in lines)
    assert 6 < len(lines) < 40


def test_a_saved_model_is_tuned_for_its_batches(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tl.Sequential([tl.Embedding(50, 8, input_length=6)]).save(tmp_path / "model.safetensors")
    arguments = ["tune", str(tmp_path / "model.safetensors"), "--batches", "1,8", "--zipf"]
    assert main([*arguments, "--trials", "2", "--json", *options(folders)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["workload"]["indices"] for each in found["workloads"]] == [6, 48]
    assert {each["data"]["distribution"] for each in found["workloads"]} == {"zipf"}
    assert found["records"] == str(folders.records)


def test_the_curve_is_drawn(folders: Folders, tmp_path: Path) -> None:
    plot = tmp_path / "curve.svg"
    arguments = ["tune", "--softmax", "256x1000", "--trials", "6", "--plot", str(plot)]
    assert main([*arguments, *options(folders)]) == 0
    assert "softmax 256x1000" in plot.read_text() or plot.stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to tune"),
        (["--dense", "4x64"], "looks like MxKxN"),
        (["--softmax", "4x16", "--trials", "0"], "trials is a whole number from 1 on"),
        (["--softmax", "4x16", "--effort", "quik"], "Did you mean 'quick'"),
        (["--softmax", "4x16", "--length", "x"], "length of a bag"),
        (["--softmax", "4x16", "--plot", "curve.txt"], "a plot is a file of"),
        (["--softmax", "4x16", "--tracker", "127.0.0.1:1"], "given together"),
        (["no such file"], "no such file"),
    ],
)
def test_bad_calls_end_with_one_line(
    arguments: list[str], said: str, folders: Folders, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *arguments, *options(folders)]) == 2
    told = capfd.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1


def test_ctrl_c_ends_with_130_and_a_summary(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from tvmlayers.cli import tuning_display

    def press(self: object, state: object) -> None:
        if state.done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(tuning_display.Lines, "trial", press)
    assert main(["tune", "--softmax", "4x256", "--trials", "9", *options(folders)]) == 130
    printed, told = capfd.readouterr()
    assert "stopped early" in printed
    assert "interrupted" in told
    assert len(folders.trials()) == 5


def test_times_are_said_as_people_do() -> None:
    assert [duration(s) for s in (0, 45, 200, 9000)] == ["0 s", "45 s", "3 min", "2.5 h"]
