"""Layers that go over the same rows run as one region: same answers, less memory."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from agreement import DEVICE, Array, Twin, compile_here, indices, normal

import tvmlayers as tl

# Around where a chain begins, the blocks that it goes in, and where threads share the rows out.
BATCHES = (*range(9), 47, 48, 49, 63, 64, 65, 95, 97, 191, 192, 193, 385, 600)


def seed_model() -> tl.Sequential:
    return tl.Sequential(
        [
            tl.Embedding(50, 64, input_length=10),
            tl.Flatten(),
            tl.Dense(128, activation="relu"),
            tl.Dense(10, activation="softmax"),
        ]
    )


@cache
def seed(target: str = "native") -> Twin:
    return Twin(seed_model(), target=target)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_a_chain_agrees_for_every_batch(threads: int) -> None:
    if not DEVICE:  # calls of a GPU have one thread
        seed().compiled.threads = threads
    seed().agrees_for_every_batch(indices(50, 600, 10), batches=BATCHES)


def test_a_chain_of_every_kind_of_layer_agrees() -> None:
    numbers, words = tl.Input((13,)), tl.Input((None,), dtype="int64")
    ids = tl.Input((6,), dtype="int64")
    bottom = tl.Dense(16, "relu")(numbers)
    bag = tl.EmbeddingBag(40, 16, mode="sum")(words)
    mean = tl.GlobalAveragePooling1D()(tl.Embedding(30, 16)(ids))
    crossed = tl.DotInteraction()([bottom, bag, mean])
    scored = tl.Activation("softmax")(tl.Concatenate()([bottom, crossed]))
    twin = Twin(tl.Model([numbers, words, ids], [tl.Dense(3)(scored), bottom, crossed]))
    twin.agrees_for_every_batch(
        normal(400, 13), indices(40, 400, 9), indices(30, 400, 6), batches=(1, 4, 5, 100, 400)
    )


def test_a_chain_of_bags_and_large_weights_agrees() -> None:
    """Its blocks are twice as large as those of other chains."""
    layers = [tl.EmbeddingBag(40, 64, mode="sum"), tl.Dense(512, "relu"), tl.Dense(520, "relu")]
    twin = Twin(tl.Sequential([*layers, tl.Dense(8)]))
    twin.agrees_for_every_batch(indices(40, 300, 5), batches=(1, 95, 97, 127, 128, 129, 256, 300))


def test_layers_before_a_chain_may_go_over_other_rows() -> None:
    model = tl.Sequential([tl.EmbeddingBag(40, 24, mode="sum"), tl.Dense(32, "relu"), tl.Dense(5)])
    twin = Twin(model)
    lengths = np.arange(300) % 5
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    twin.agrees(indices(40, int(lengths.sum())), offsets=offsets)
    twin.agrees(indices(40, 300, 4))


@pytest.mark.parametrize("row", [0, 191, 192, 299, 599])
def test_a_bad_index_in_any_block_is_named(row: int) -> None:
    compiled = compile_here(seed_model(), threads=2)
    ids = indices(50, 600, 10)
    ids[row, 7] = 50
    with pytest.raises(tl.IndexOutOfRangeError, match=rf"index 50 at position \({row}, 7\)"):
        compiled(ids)


def test_what_passes_between_the_layers_does_not_grow_with_the_batch(
    scratch_made: list[int],
) -> None:
    compiled = tl.compile(seed_model(), threads=2)
    for batch in (1000, 20000):
        compiled(indices(50, batch, 10))
    assert max(scratch_made) < 8 << 20  # the looked up rows alone are 51 MB


def test_a_chain_leaves_its_inputs_alone() -> None:
    compiled = compile_here(tl.Sequential([tl.Dense(8, "relu", input_dim=8), tl.Dense(8)]))
    x: Array = normal(300, 8)
    before = x.copy()
    compiled(x)
    np.testing.assert_array_equal(x, before)
