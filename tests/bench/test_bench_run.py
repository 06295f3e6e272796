"""A whole run of the benchmark on tiny cases, as the command line starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from bench.__main__ import chosen, main, parser
from bench.session import Session

ROOT = Path(__file__).parents[2]


def test_command_line_writes_rows_that_hold_their_conditions(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    command = [sys.executable, "-m", "bench", "dense", "--shapes", "3x17x31:tanh", "1x333x3"]
    options = ["--rounds", "1", "--threads", "1", "--no-limits", "--json", str(path)]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "geometric mean" in done.stdout
    record = json.loads(path.read_text())
    assert record["conditions"]["threads"] == 1
    assert [row["case"] for row in record["rows"]] == ["3x17x31:tanh", "1x333x3:linear"]
    for row in record["rows"]:
        assert row["ratio"] == row["peers"]["torch"]["ratio"] > 0
        assert row["ours_us"] > 0
        assert row["schedule"]


@pytest.mark.parametrize(
    "line",
    [
        "embedding --cases 333x17x31:zipf --data both",
        "bag --cases 333x17x31x0..9:sum 333x17x3x5:max --data rotated",
        "model --name seed --name text --batches 1,3",
        "dense --shapes 3x17x31:gelu --data rotated",
        "dense --shapes 3x64x70:gelu --dtype bfloat16",
    ],
)
def test_tiny_cases_agree_and_give_rows(line: str) -> None:
    arguments = parser().parse_args([*line.split(), "--rounds", "1", "--no-limits"])
    arguments.threads = 1
    session = Session(arguments)
    assert session.run(chosen(arguments)) == 0
    layouts = 2 if getattr(arguments, "data", "") == "both" else 1
    assert len(session.rows) == layouts * len(chosen(arguments))


def test_bad_case_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dense", "--shapes", "7x333"]) == 2
    assert "MxKxN:activation" in capsys.readouterr().err


def test_plot_draws_a_bar_for_each_case(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "ratios.svg"
    options = ["--rounds", "1", "--no-limits", "--plot", str(path)]
    arguments = parser().parse_args(["dense", "--shapes", "3x17x31:tanh", *options])
    arguments.threads = 1
    assert Session(arguments).run(chosen(arguments)) == 0
    assert "<svg" in path.read_text(encoding="utf-8")
