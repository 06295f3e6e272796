"""Calls in turns and beside others: each pair or side in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from bench import turns
from bench.__main__ import main

CASES = ["--cases", "dense 3x17x31:tanh", "bag 33x17x5x3:max", "--peers", "torch,openvino"]
BRIEF = ["--seconds", "0.02", "--rounds", "1", "--threads", "1"]


def measured(tmp_path: Path, *words: str) -> list[dict[str, Any]]:
    pytest.importorskip("openvino")
    path = tmp_path / "found.json"
    assert main([*words, *CASES, *BRIEF, "--json", str(path)]) == 0
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def test_turns_time_each_pair_alone_and_together(tmp_path: Path) -> None:
    found = measured(tmp_path, "turns")
    pairs = [(row["case"], row["peer"]) for row in found]
    dense, bag = CASES[1:3]
    assert pairs == [(dense, "torch"), (dense, "openvino"), (bag, "torch")]
    for row in found:
        both = row["ours_in_turns"] + row["other_in_turns"]
        assert row["ratio"] == pytest.approx(both / (row["ours"] + row["other"]))


def test_ratio_is_of_the_sums_round_by_round() -> None:
    found = turns.figures("case", "peer", [[1, 3, 2, 4], [2, 3, 2, 3], [1, 1, 4, 4]])
    assert (found.ratio, found.ratio_low, found.ratio_high) == (1.5, 1.25, 2.75)
    assert (found.ours, found.other, found.ours_in_turns, found.other_in_turns) == (1, 3, 2, 4)


def test_contention_times_each_side_with_several_callers(tmp_path: Path) -> None:
    options = ["--busy", "0", "--pauses", "0", "--callers", "2"]
    found = measured(tmp_path, "contention", *options)
    sides = [row["side"] for row in found]
    own = ["ours", "ours, 1 thread"]
    assert sides == [*own, "torch", "openvino", *own, "torch"]
    assert all(row["calls"] > 0 and row["p99"] >= row["p50"] > 0 for row in found)


@pytest.mark.parametrize("kind", ["turns", "contention"])
def test_side_that_leaves_a_case_out_says_why(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    cases = ["--cases", "bag 33x17x5x0..3:sum", "--peers", "onnxruntime"]
    more = ["--busy", "0", "--pauses", "0"] if kind == "contention" else []
    assert main([kind, *cases, *more, *BRIEF]) == 0
    assert "onnxruntime is left out: ONNX has no operator" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["turns", "contention"])
@pytest.mark.parametrize("words", [["--cases", "7x3"], ["--peers", "nobody"]])
def test_unknown_case_or_peer_is_refused(kind: str, words: list[str]) -> None:
    assert main([kind, *words]) == 2
