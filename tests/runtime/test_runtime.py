"""Calling compiled models: inputs by name, outputs, threads, loading and saving."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import handmade
import numpy as np
import pytest
from handmade import IDS, ROWS, TABLE
from together import together

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.runtime.compiled import Compiled

torch = pytest.importorskip("torch")


def test_inputs_go_by_position_or_by_name(bag: Compiled) -> None:
    indices, offsets = np.array([0, 1, 4]), np.array([0, 2])
    expected = [TABLE[0] + TABLE[1], TABLE[4]]
    for _ in range(2):
        np.testing.assert_array_equal(bag(indices, offsets), expected)
        np.testing.assert_array_equal(bag(indices, offsets=offsets), expected)
        np.testing.assert_array_equal(bag(offsets=offsets, indices=indices), expected)


def test_none_counts_as_not_given(bag: Compiled) -> None:
    with pytest.raises(tl.ShapeError, match=r"takes the inputs \(indices, offsets\), got indices"):
        bag(np.array([0, 1]), None)


def test_wrong_names_and_numbers_of_inputs_are_refused(embedding: Compiled) -> None:
    with pytest.raises(tl.ShapeError, match=r"takes the inputs \(ids\), got 2"):
        embedding(IDS, IDS)
    with pytest.raises(tl.ConfigError, match="no input 'idz'"):
        embedding(idz=IDS)
    with pytest.raises(tl.ConfigError, match="'ids' twice"):
        embedding(IDS, ids=IDS)
    with pytest.raises(tl.ShapeError, match="got none"):
        embedding()


def test_several_outputs_are_a_list(scale: Compiled) -> None:
    x = np.array([[1, 2, 3]], np.float32)
    for _ in range(2):
        doubled, first = scale(x)
        assert (doubled.tolist(), first.tolist()) == ([[2, 4, 6]], [1])


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_out_is_filled_and_given_back(embedding: Compiled, kind: Any) -> None:
    out = kind(np.zeros((3, 10, 4), np.float32))
    for _ in range(2):
        assert embedding(kind(IDS), out=out) is out
        np.testing.assert_array_equal(np.asarray(out), TABLE[IDS])


def test_out_takes_one_buffer_for_each_output(scale: Compiled) -> None:
    x = np.array([[1, 2, 3]], np.float32)
    out = [np.empty((1, 3), np.float32), np.empty(1, np.float32)]
    for _ in range(2):
        assert scale(x, out=out) is out
        assert out[0].tolist() == [[2, 4, 6]]
    with pytest.raises(tl.ShapeError, match="expected 2 buffers, got 1"):
        scale(x, out=out[0])


def _wrong_out() -> list[Any]:
    good = np.zeros((3, 3), np.float32)
    read_only = good.copy()
    read_only.flags.writeable = False
    return [
        pytest.param(np.zeros((4, 3), np.float32), "shape", id="shape"),
        pytest.param(good.astype(np.float64), "float32, got float64", id="dtype"),
        pytest.param(np.asfortranarray(good), "contiguous", id="order"),
        pytest.param(read_only, "read-only", id="read-only"),
        pytest.param(torch.zeros(3, 3, requires_grad=True), "gradient", id="gradient"),
        pytest.param([[0.0] * 3] * 3, "tensor to write to|buffers", id="list"),
    ]


@pytest.mark.parametrize(("out", "message"), _wrong_out())
def test_an_out_that_cannot_be_written_is_refused(spread: Compiled, out: Any, message: str) -> None:
    x = np.ones((3, 3), np.float32)
    for _ in range(2):
        with pytest.raises(tl.TvmLayersError, match=message):
            spread(x, out=out)
        spread(x, out=np.zeros_like(x))


def test_an_out_that_overlaps_an_input_is_refused(spread: Compiled) -> None:
    block = np.ones((5, 3), np.float32)
    for _ in range(2):
        with pytest.raises(tl.ConfigError, match="overlaps"):
            spread(block[:3], out=block[2:])
        spread(block[:2], out=block[2:4])


def test_calls_from_several_threads_are_right(embedding: Compiled, bag: Compiled) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(200):
            ids = generator.integers(0, ROWS, (int(generator.integers(1, 9)), 10))
            if not np.array_equal(embedding(ids), TABLE[ids]):
                wrong.append(seed)
            if not np.array_equal(bag(ids[0], np.array([0])), [TABLE[ids[0]].sum(0)]):
                wrong.append(seed)

    together(work, range(4))
    assert wrong == []


def test_threads_can_be_set(spread: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "usable_cpus", lambda: 2)
    x = np.ones((4, 3), np.float32)
    spread.threads = 1
    assert spread(x).max() == 1
    spread.threads = np.int64(3)  # more than there are CPUs
    assert spread(x).min() == 2
    assert type(spread.threads) is int
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(tl.ConfigError, match="threads"):
            spread.threads = wrong


def test_a_model_is_freed_with_its_last_reference() -> None:
    model = handmade.make(handmade.embedding_manifest())
    model(IDS)
    model(torch.from_numpy(IDS))
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_a_loaded_model_gives_the_same_and_saves_the_same(tmp_path: Path) -> None:
    path = handmade.save(tmp_path / "model.tvml")
    loaded = tl.load(path, threads=1)
    np.testing.assert_array_equal(loaded(IDS), TABLE[IDS])
    loaded.save(tmp_path / "again.tvml")
    again = tl.load(tmp_path / "again.tvml")
    np.testing.assert_array_equal(again(IDS), TABLE[IDS])
    assert again.manifest["hashes"] == loaded.manifest["hashes"]
    assert (again.target, again.inputs, again.outputs) == (
        "x86-64-v3",
        loaded.inputs,
        loaded.outputs,
    )
    assert repr(loaded).startswith("<Compiled (ids: int32(n, 10)) -> float32(n, 10, 4)")
