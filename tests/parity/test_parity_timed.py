"""Whatever the benchmark times is right: its public and odd cases, its models, at every batch."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from agreement import DEVICE, Twin, normal, unless_emulated

import tvmlayers as tl

pytest.importorskip("torch")

from bench import cases, models, ours, reference
from bench.cases import BagCase, DenseCase, EmbeddingCase, ModelCase
from bench.settings import Settings
from bench.work import BagWork, EmbeddingWork, make, release

# Beyond this a table is only more of the same rows, and takes seconds to make.
MOST_ROWS = 100_000
SETTINGS = Settings(target=DEVICE or "native", threads=2)
pytestmark = unless_emulated


def dense_layers() -> list[Any]:
    """(k, n, activation, batches) of each public dense layer, once for all of its batches."""

    def layer(case: DenseCase) -> tuple[Any, ...]:
        return case.k, case.n, case.activation

    listed = [case for case in cases.public("dense") if isinstance(case, DenseCase)]
    return [
        pytest.param(*key, [case.m for case in group], id="x".join(map(str, key)))
        for key, group in groupby(listed, layer)
    ]


@pytest.mark.parametrize(("k", "n", "activation", "batches"), dense_layers())
def test_every_timed_dense_layer_is_right(
    k: int, n: int, activation: str | None, batches: list[int]
) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((k, n), dtype=np.float32) / np.sqrt(k, dtype=np.float32)
    layer = tl.Dense(n, activation, input_dim=k)
    layer.set_weights([kernel, rng.standard_normal(n)])
    twin = Twin(layer, seed=None)
    twin.agrees_for_every_batch(normal(max(batches), k), batches=(*batches, 3))


def lookups(kind: str) -> list[Any]:
    """The public cases, large tables cut, and some of the odd ones: each takes a compilation."""
    listed: list[Any] = [*cases.public(kind), *cases.odd(kind)[:: 37 if kind == "bag" else 7]]
    cut = [replace(case, rows=min(case.rows, MOST_ROWS)) for case in listed]
    return [pytest.param(case, id=case.spec) for case in dict.fromkeys(cut)]


@pytest.mark.parametrize("case", lookups("embedding"))
def test_every_timed_lookup_is_right(case: EmbeddingCase) -> None:
    check(case)


@pytest.mark.parametrize("case", lookups("bag"))
def test_every_timed_bag_is_right(case: BagCase) -> None:
    check(case)


def check(case: EmbeddingCase | BagCase) -> None:
    """The benchmark's own check of what it is about to time."""
    work = make(case, "repeated", "float32", "int64", cache_bytes=1)
    assert isinstance(work, EmbeddingWork | BagWork)
    side = ours.prepare(work, SETTINGS)
    reference.check([side.bound, side.call], work)


@pytest.mark.parametrize("name", models.MODELS)
def test_every_timed_model_is_right_at_every_timed_batch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "TOWER_ROWS", MOST_ROWS)
    monkeypatch.setattr(models, "DLRM_ROWS", MOST_ROWS // 10)
    release()
    work = make(ModelCase(name, 3), "repeated", "float32", "int64", cache_bytes=1)
    side = ours.prepare(work, SETTINGS)
    reference.check([side.bound, side.call], work)
    timed = [case.batch for case in cases.models(name)]
    report = tl.verify(side.compiled, samples=[3, *timed])
    release()
    assert report.passed, str(report)
