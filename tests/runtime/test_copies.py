"""Copies and pickles of compiled models, within a process and for others."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from handmade import IDS, TABLE, make, scale_manifest

import tvmlayers as tl
from tvmlayers.runtime.compiled import Compiled

torch = pytest.importorskip("torch")

WAYS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_compiled_model_is_copied(embedding: Compiled, way: str, calls: int) -> None:
    for _ in range(calls):
        embedding(IDS)
        embedding(torch.from_numpy(IDS))
    made = WAYS[way](embedding)
    for kind in (np.asarray, torch.from_numpy):
        np.testing.assert_array_equal(made(kind(IDS)), TABLE[IDS])
    assert (repr(made), made.manifest) == (repr(embedding), embedding.manifest)
    with pytest.raises(tl.IndexOutOfRangeError, match="index 5 at position"):
        made(IDS + 5)


def test_a_copy_has_weights_of_its_own(embedding: Compiled) -> None:
    made = copy.deepcopy(embedding)
    made.packed_weights()["embedding/embeddings"][...] = 0
    assert not made(IDS).any()
    np.testing.assert_array_equal(embedding(IDS), TABLE[IDS])


def test_the_threads_that_were_asked_for_go_along() -> None:
    asked = make(scale_manifest(), threads=1)
    assert copy.deepcopy(asked).threads == 1
    default = make(scale_manifest())
    assert copy.deepcopy(default).threads == default.threads


def test_a_copy_can_be_saved(embedding: Compiled, tmp_path: Any) -> None:
    pickle.loads(pickle.dumps(embedding)).save(tmp_path / "model.tvml")
    np.testing.assert_array_equal(tl.load(tmp_path / "model.tvml")(IDS), TABLE[IDS])


def test_a_model_for_another_machine_is_pickled_and_refused_here() -> None:
    described = scale_manifest()
    described["cpu_features"] = ["a-feature-to-come"]
    pickled = pickle.dumps(make(described))
    with pytest.raises(tl.TargetError, match="this model was compiled for"):
        pickle.loads(pickled)


def test_a_bound_call_refuses(embedding: Compiled) -> None:
    bound = embedding.bind(IDS)
    for refused in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(tl.ConfigError, match="belongs to its buffers"):
            refused(bound)


def called(model: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(model(x))


def test_other_processes_take_models_layers_and_compiled_models() -> None:
    layer = tl.Dense(3, input_dim=4)
    model = tl.Sequential([layer, tl.Dense(2, "softmax")])
    x = np.ones((2, 4), np.float32)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for each in (layer, model, tl.compile(model)):
            np.testing.assert_array_equal(pool.apply(called, (each, x)), each(x))
