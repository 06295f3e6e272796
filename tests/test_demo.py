"""The demonstration, cut down: all predictions agree, and the report says what was found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from tvmlayers import cli
from tvmlayers.demo import corpus, report, run, timing


def test_quick_demonstration_agrees_with_torch_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "demo.json"
    assert cli.main(["demo", "--quick", "--threads", "1", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["succeeded"] is True
    assert found["threads"] == 1
    assert [snippet["verified"] for snippet in found["snippets"]] == [True, True]
    for comparison in found["comparisons"]:
        assert comparison["disagreements"] == 0
        assert comparison["accuracy"] == comparison["torch_accuracy"]
        assert comparison["accuracy"] > 0.4  # chance is a quarter at best
        assert comparison["built"]["verified"] is True
        assert comparison["built"]["weights_bytes"] > 0
        assert comparison["built"]["library_bytes"] > 0
        assert [timed["batch"] for timed in comparison["timings"]] == [1, 32]
    printed = capsys.readouterr()
    assert "predictions equal PyTorch's" in printed.out
    assert "digits: time batch 32" in printed.err


def test_stages_are_counted_right(monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[str] = []
    settings = replace(run.QUICK, digit_epochs=1, batches=(1,), rounds=1)
    run.run(settings, stages.append, threads=1)
    assert len(stages) == settings.stages


def test_a_single_disagreement_fails_the_demonstration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run.run(replace(run.QUICK, batches=(), rounds=1), lambda stage: None, threads=1)
    first, *rest = found.comparisons
    differing = replace(found, comparisons=(replace(first, disagreements=1), *rest))
    assert found.succeeded
    assert not differing.succeeded
    monkeypatch.setattr(run, "run", lambda *_: differing)
    assert cli.main(["demo", "--quick"]) == 1
    assert "1 of" in capsys.readouterr().out


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


def test_duel_reports_the_slower_side_as_slower() -> None:
    short, long = list(range(10)), list(range(10_000))
    result = timing.duel(lambda: sorted(short), lambda: sorted(long), rounds=3)
    assert result.ours_us < result.theirs_us
    assert result.speedup > 1


def test_report_is_json_of_what_was_found(tmp_path: Path) -> None:
    found = run.Demonstration("native", 2, "3", "2", 0.0, 0, (), (), 1.0)
    report.write_json(found, tmp_path / "demo.json")
    assert json.loads((tmp_path / "demo.json").read_text())["threads"] == 2
