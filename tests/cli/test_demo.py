"""The demonstration, cut down: all predictions agree, and the report says what was found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clocks import Clock

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from tvmlayers import cli
from tvmlayers.demo import corpus, run, timing
from tvmlayers.demo.run import Demonstration

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def demonstrated() -> tuple[Demonstration, list[str]]:
    """What a quick run found, and the stages it went through."""
    stages: list[str] = []
    return run.run(run.QUICK, stages.append, threads=1), stages


@pytest.fixture
def found(demonstrated: tuple[Demonstration, list[str]]) -> Demonstration:
    return demonstrated[0]


def test_all_predictions_equal_those_of_torch(found: Demonstration) -> None:
    assert found.succeeded
    for comparison in found.comparisons:
        assert comparison.disagreements == 0
        assert comparison.accuracy == comparison.torch_accuracy
        assert comparison.largest_difference < 1e-5


def test_models_learn_something(found: Demonstration) -> None:
    accuracy = {comparison.built.name: comparison.accuracy for comparison in found.comparisons}
    assert accuracy["digits"] > 0.7  # chance is 0.1
    assert accuracy["text"] > 0.4  # chance is 0.25


def test_snippets_and_trained_models_are_verified_and_have_sizes(found: Demonstration) -> None:
    assert [built.name for built in found.built] == ["embedding", "dense", "digits", "text"]
    for built in found.built:
        assert built.verified
        assert built.library_bytes > 0
        assert built.artefact_bytes > built.library_bytes + built.weights_bytes
    assert found.runtime_library_bytes > 0


def test_every_stage_is_announced(demonstrated: tuple[Demonstration, list[str]]) -> None:
    _, stages = demonstrated
    assert len(stages) == run.QUICK.stages
    assert stages[-1] == "text: time batch 32"


def test_command_prints_tables_and_writes_json(
    found: Demonstration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(run, "run", lambda *_: found)
    path = tmp_path / "demo.json"
    assert cli.main(["demo", "--json", str(path)]) == 0
    assert "held-out predictions equal PyTorch's" in capsys.readouterr().out
    written = json.loads(path.read_text())
    assert written["succeeded"] is True
    assert written["threads"] == 1
    assert [timed["batch"] for timed in written["comparisons"][0]["timings"]] == [1, 32]


def test_one_disagreement_fails_the_command(
    found: Demonstration, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    first, *rest = found.comparisons
    differing = replace(found, comparisons=(replace(first, disagreements=1), *rest))
    monkeypatch.setattr(run, "run", lambda *_: differing)
    assert cli.main(["demo"]) == 1
    assert "1 of" in capsys.readouterr().out


def test_report_warns_when_other_programs_were_running(
    found: Demonstration, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(run, "run", lambda *_: replace(found, busy_elsewhere=0.8))
    cli.main(["demo"])
    assert "0.8 cores" in capsys.readouterr().out
    monkeypatch.setattr(run, "run", lambda *_: replace(found, busy_elsewhere=0.0))
    cli.main(["demo"])
    assert "cores" not in capsys.readouterr().out


def test_corpus_is_balanced_and_keeps_files_apart() -> None:
    train, held_out = corpus.load_corpus(train_size=80, held_out_size=40, vocabulary=300)
    assert np.bincount(train.labels).tolist() == [20] * len(corpus.PACKAGES)
    assert np.bincount(held_out.labels).tolist() == [10] * len(corpus.PACKAGES)
    assert train.ids.max() < 300
    assert (train.ids[:, 0] != corpus.PADDING_ID).all()
    seen = {tuple(row) for row in train.ids}
    assert not any(tuple(row) in seen for row in held_out.ids)


def test_tokens_hold_neither_numbers_nor_the_answer() -> None:
    assert corpus.tokenize("In PyTorch, 2 Tensors x and y.") == ("in", "tensors", "and")


def test_duel_reports_the_slower_side_as_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    result = timing.duel(lambda: clock.sleep(1e-3), lambda: clock.sleep(3e-3), rounds=3)
    assert (result.ours_us, result.theirs_us) == pytest.approx((1000, 3000))
    assert result.speedup == pytest.approx(3)
