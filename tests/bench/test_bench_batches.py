"""One artefact for any batch against one for each batch."""

from __future__ import annotations

import json

from bench import batches


def test_each_batch_gets_a_row_and_the_worst_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(batches, "BATCHES", (1, 40))
    monkeypatch.setattr(batches, "ROUNDS", 1)
    assert batches.main(["64x128:relu", "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["batch"] for row in found["rows"]] == [1, 40]
    assert all(row["ratio"] > 0 and row["any_us"] > 0 for row in found["rows"])
    assert "worst" in capsys.readouterr().out


def test_a_shape_that_cannot_be_read_is_refused(capsys):
    assert batches.main(["64:relu"]) == 2
    assert "KxN" in capsys.readouterr().err
