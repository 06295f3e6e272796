"""verify finds nothing in a right model and everything that is wrong in a broken one."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import Broken

import tvmlayers as tl
from tvmlayers.testing import BATCHES, Report, Row, verify

pytest.importorskip("torch")


@cache
def classifier() -> tl.Compiled:
    layers = [tl.Embedding(50, 6, input_length=4), tl.Flatten(), tl.Dense(70, "relu")]
    return tl.compile(tl.Sequential([*layers, tl.Dense(3, "softmax")], name="classifier"))


@cache
def bag() -> tl.Compiled:
    return tl.compile(tl.EmbeddingBag(20, 16, mode="mean", padding_idx=3))


@cache
def ragged() -> tl.Compiled:
    ids, offsets = tl.Input((None,), batch=False, name="ids"), tl.Input((), dtype="int64")
    rows = tl.EmbeddingBag(20, 16, mode="sum", include_last_offset=True)(ids, offsets)
    return tl.compile(tl.Model([ids, offsets], tl.Dense(2)(rows)))


@cache
def merging() -> tl.Compiled:
    x, ids = tl.Input((5, 8), dtype="float64"), tl.Input((None,))
    rows = tl.Embedding(9, 8, mask_zero=True, oob="clip", dtype="float64")(ids)
    pooled = tl.GlobalAveragePooling1D()(rows)
    crossed = tl.DotInteraction()(x)
    cosine = tl.Dot((2, 1), normalize=True)([x, pooled])
    return tl.compile(tl.Model([x, ids], [tl.Concatenate()([crossed, cosine]), tl.Flatten()(x)]))


@cache
def shared_offsets() -> tl.Compiled:
    flat = [tl.Input((None,), batch=False) for _ in range(2)]
    offsets = tl.Input((), dtype="int64")
    tables = [tl.EmbeddingBag(rows, 8, oob="zero") for rows in (9, 7)]
    rows = [table(ids, offsets) for table, ids in zip(tables, flat, strict=True)]
    return tl.compile(tl.Model([*flat, offsets], tl.Concatenate()(rows)))


MODELS = (classifier, bag, ragged, merging, shared_offsets)


@pytest.mark.parametrize("make", MODELS)
def test_a_right_model_passes_for_every_entry_and_batch(make: Callable[[], Any]) -> None:
    compiled = make()
    report = tl.verify(compiled)
    assert report.passed, str(report)
    assert report.ok
    entries = [entry["symbol"] for entry in compiled.manifest["entries"]]
    assert [(row.entry, row.batch) for row in report.rows] == [
        (entry, batch) for entry in entries for batch in BATCHES
    ]
    assert {0, 1} < set(BATCHES)
    assert 0 < report.largest_error < 1e-5


@pytest.mark.parametrize("make", MODELS)
def test_a_loaded_artefact_is_verified_from_itself(make: Callable[[], Any], tmp_path: Path) -> None:
    make().save(tmp_path / "model.tvml")
    report = tl.verify(tl.load(tmp_path / "model.tvml"), samples=(0, 1, 5))
    assert report.passed, str(report)


def test_inputs_are_the_same_for_a_seed_and_others_for_another() -> None:
    first, same, *others = (
        verify(classifier(), samples=(7,), seed=seed) for seed in (1, 1, *range(2, 12))
    )
    assert first.rows == same.rows
    assert any(first.rows != other.rows for other in others)  # errors of two may be alike


def one_wrong(result: Any) -> Any:
    result[2, 1] += 1e-4
    return result


def one_nan(result: Any) -> Any:
    result[2, 1] = np.nan
    return result


def half_precision(result: Any) -> Any:
    return result.astype(np.float16).astype(np.float32)


def rows_swapped(result: Any) -> Any:
    return result[::-1]


@pytest.mark.parametrize("spoil", [one_wrong, one_nan, half_precision, rows_swapped])
def test_a_wrong_number_is_reported_and_not_raised(spoil: Callable[[Any], Any]) -> None:
    report = verify(Broken(classifier(), spoil), samples=(3, 17))
    assert not report.passed
    assert not any(row.passed for row in report.rows)
    assert "FAILED in 4 of 4 calls" in str(report)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["ok"] is False


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda result: result[:, :2], r"expected float32\(3, 3\), got float32\(3, 2\)"),
        (lambda result: result.astype(np.float64), "got float64"),
    ],
)
def test_a_wrong_shape_or_dtype_is_reported(spoil: Callable[[Any], Any], problem: str) -> None:
    report = verify(Broken(classifier(), spoil), samples=(3,))
    assert not report.passed
    assert re.search(problem, report.rows[0].problem)


def test_an_error_of_the_model_is_reported() -> None:
    def refuse(result: Any) -> Any:
        raise tl.IndexOutOfRangeError("index 3 at position 1")

    report = verify(Broken(classifier(), refuse), samples=(3,))
    assert not report.passed
    assert "IndexOutOfRangeError: index 3" in str(report)


def test_changed_weights_in_the_arena_are_no_error_of_the_code() -> None:
    # the reference is made of the packed weights, whatever they are
    compiled = tl.compile(tl.Dense(70, "tanh", input_dim=9))
    compiled.packed_weights()["dense/kernel"][...] *= 2
    assert verify(compiled, samples=(5,)).passed


def test_a_report_reads_as_a_table_and_as_json() -> None:
    report = verify(bag(), samples=(0, 5))
    text = str(report)
    for word in ("passed", "float64", "batch", "max abs error", "tolerance", "forward_0(", "int64"):
        assert word in text
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert found["passed"] is True
    assert len(found["rows"]) == len(report.rows)
    assert found["rows"][0]["batch"] == 0


def test_a_row_passes_within_its_tolerance_only() -> None:
    def row(share: float, problem: str = "") -> Row:
        return Row("forward_0", "x", 1, "y", 1e-7, 1e-7, 1e-6, share, problem)

    assert row(1.0).passed
    assert not row(1.01).passed
    assert not row(float("inf")).passed
    assert not row(0.0, "wrong shape").passed
    assert not Report("m", "t", 1, 0, "2", (row(0.1), row(2.0))).passed


@pytest.mark.parametrize("samples", [(), (-1,), (1.0,), 5, None, (True,)])
def test_samples_are_batch_sizes(samples: Any) -> None:
    with pytest.raises(tl.ConfigError, match="batch sizes"):
        verify(classifier(), samples=samples)


def squared(x: Any) -> Any:
    return x * x


def test_a_callable_activation_takes_the_model_itself() -> None:
    layer = tl.Dense(70, squared, input_dim=3)
    compiled = tl.compile(layer)
    with pytest.raises(tl.ConfigError, match=r"'squared'.*model=model"):
        verify(compiled)
    assert verify(compiled, model=layer).passed
    with pytest.raises(tl.ConfigError, match="not the model that was compiled"):
        verify(compiled, model=tl.Dense(70, "relu", input_dim=3))


def test_without_torch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = classifier()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(tl.MissingDependencyError, match=r"pip install 'tvmlayers\[torch\]'"):
        tl.verify(compiled)
