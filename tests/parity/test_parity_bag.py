"""EmbeddingBag agrees with PyTorch in every mode and form of call; bad offsets are refused."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from agreement import Array, Twin, indices, normal
from hypothesis import given, settings
from hypothesis import strategies as st

import tvmlayers as tl
from tvmlayers.layers.embedding_bag import MODES

torch = pytest.importorskip("torch")

ROWS, WIDTH = 61, 16
PADDINGS = (None, 30)
WEIGHTED = ("sum", "mean")
BATCHES = (0, 1, 2, 3, 7, 16, 40, 333)


@cache
def bag(
    mode: str,
    padding_idx: int | None = None,
    include_last_offset: bool = False,
    oob: str = "raise",
    width: int = WIDTH,
    dtype: str = "float32",
    target: str = "native",
) -> Twin:
    layer = tl.EmbeddingBag(
        ROWS,
        width,
        mode=mode,
        padding_idx=padding_idx,
        include_last_offset=include_last_offset,
        oob=oob,
        dtype=dtype,
    )
    return Twin(layer, target=target)


def ragged(
    lengths: Array, include_last_offset: bool, dtype: str = "int64", seed: int = 3
) -> tuple[Array, Array]:
    """(indices, offsets) of bags of these lengths; a third of the indices are 0 or 30."""
    ids = indices(ROWS, int(lengths.sum()), seed=seed)
    ids[::6], ids[3::6] = 0, 30
    ends = np.cumsum([0, *lengths])
    return ids.astype(dtype), (ends if include_last_offset else ends[:-1]).astype(dtype)


def lengths_of(batch: int, longest: int = 9) -> Array:
    """Lengths of bags, empty ones among them, at the beginning and the end too."""
    lengths = np.random.default_rng(batch).integers(0, longest + 1, batch)
    lengths[:1], lengths[-1:] = 0, 0
    return lengths


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_idx", PADDINGS)
def test_rows_of_a_matrix_are_bags(mode: str, padding_idx: int | None) -> None:
    twin = bag(mode, padding_idx)
    for batch, length in product(BATCHES, (0, 1, 2, 17, 64)):
        ids = indices(ROWS, batch, length)
        ids[:, ::3] = padding_idx or 0
        twin.agrees(ids)
        if mode in WEIGHTED:
            twin.agrees(ids, per_sample_weights=normal(batch, length) ** 2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_idx", PADDINGS)
@pytest.mark.parametrize("include_last_offset", [False, True])
def test_offsets_part_the_indices_into_bags(
    mode: str, padding_idx: int | None, include_last_offset: bool
) -> None:
    twin = bag(mode, padding_idx, include_last_offset)
    for batch, dtype in product(BATCHES, ("int32", "int64")):
        ids, offsets = ragged(lengths_of(batch), include_last_offset, dtype)
        twin.agrees(ids, offsets=offsets)
        if mode in WEIGHTED:
            factors = normal(len(ids)) ** 2
            twin.agrees(ids, offsets=offsets, per_sample_weights=factors)


@pytest.mark.parametrize(
    ("width", "mode", "dtype"),
    [
        (1, "mean", "float32"),
        (3, "max", "float64"),
        (17, "sum", "float32"),
        (17, "min", "float64"),
        (100, "mean", "float64"),
        (128, "sum", "float32"),
        (300, "min", "float32"),
        (768, "max", "float32"),
    ],
)
def test_every_width_agrees(width: int, mode: str, dtype: str) -> None:
    twin = bag(mode, None, False, "raise", width, dtype)
    for batch in (0, 1, 5, 40):
        ids, offsets = ragged(lengths_of(batch), False)
        twin.agrees(ids, offsets=offsets)
        twin.agrees(indices(ROWS, batch, 21))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("width", "oob"), [(64, "raise"), (100, "zero"), (128, "zero")])
def test_wide_rows_that_do_not_count_are_left_out(mode: str, width: int, oob: str) -> None:
    twin = bag(mode, 30, False, oob, width)
    ids, offsets = ragged(lengths_of(40), False)
    if oob == "zero":
        ids[1::7] = ROWS
    twin.agrees(ids, offsets=offsets)
    if mode in WEIGHTED:
        twin.agrees(ids, offsets=offsets, per_sample_weights=normal(len(ids)) ** 2)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_extreme_of_a_nan_is_nan_and_of_infinities_one_of_them(mode: str) -> None:
    table = normal(ROWS, 100)
    table[5, ::3], table[7, ::2], table[9, ::5] = np.nan, np.inf, -np.inf
    layer = tl.EmbeddingBag(ROWS, 100, mode=mode)
    layer.build((None, None))
    layer.set_weights([table])
    ids = np.array([[1, 5, 2], [5, 1, 2], [2, 1, 5], [7, 9, 1], [5, 7, 9], [7, 5, 9], [1, 2, 3]])
    extreme = getattr(table[ids], mode)(axis=1)
    np.testing.assert_array_equal(Twin(layer, seed=None).compiled(ids), extreme)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", PADDINGS)
@pytest.mark.parametrize("include_last_offset", [False, True])
def test_a_bag_is_pytorchs_where_pytorch_has_it(
    mode: str, padding_idx: int | None, include_last_offset: bool
) -> None:
    twin = bag(mode, padding_idx, include_last_offset)
    (table,) = twin.model.get_weights()
    ids, offsets = ragged(lengths_of(50), include_last_offset)
    more = {"per_sample_weights": normal(len(ids))} if mode == "sum" else {}
    wide = {name: torch.from_numpy(array.astype(np.float64)) for name, array in more.items()}
    wanted = torch.nn.functional.embedding_bag(
        torch.from_numpy(ids),
        torch.from_numpy(table.astype(np.float64)),
        torch.from_numpy(offsets),
        mode=mode,
        include_last_offset=include_last_offset,
        padding_idx=padding_idx,
        **wide,
    )
    given = twin.compiled(ids, offsets, **more)
    np.testing.assert_allclose(given, wanted.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_bag_of_no_indices_is_zero(mode: str) -> None:
    compiled = bag(mode).compiled
    for result in (
        compiled(np.zeros((4, 0), np.int64)),
        compiled(np.zeros(0, np.int64), np.zeros(4, np.int64)),
        compiled(np.array([1, 2]), np.array([0, 0, 0, 2, 2]))[[0, 1, 3, 4]],
    ):
        np.testing.assert_array_equal(result, np.zeros((4, WIDTH)))


@pytest.mark.parametrize("mode", MODES)
def test_a_bag_of_nothing_but_padding_is_zero(mode: str) -> None:
    result = bag(mode, 30).compiled(np.full((3, 5), 30))
    np.testing.assert_array_equal(result, np.zeros((3, WIDTH)))


def test_a_weighted_mean_is_the_weighted_average() -> None:
    twin = bag("mean")
    (table,) = twin.model.get_weights()
    ids, factors = np.array([[3, 5, 5, 60]]), np.array([[1, 2, 0.5, 4]], np.float32)
    wanted = np.average(table[ids[0]].astype(np.float64), axis=0, weights=factors[0])
    np.testing.assert_allclose(twin.compiled(ids, per_sample_weights=factors)[0], wanted, rtol=1e-5)


def test_weights_may_be_negative_and_zero_in_a_sum() -> None:
    ids, offsets = ragged(lengths_of(40), False)
    factors = np.random.default_rng(0).choice([-2.0, 0.0, 1.5], len(ids)).astype(np.float32)
    bag("sum").agrees(ids, offsets=offsets, per_sample_weights=factors)


@pytest.mark.parametrize(
    ("mode", "oob"), [("sum", "zero"), ("mean", "clip"), ("max", "clip"), ("min", "zero")]
)
def test_indices_outside_the_table_follow_the_policy(mode: str, oob: str) -> None:
    far = [-1, -(2**63), 2**63 - 1, ROWS, ROWS + 5, 0, 3, ROWS - 1]
    ids = np.random.default_rng(0).choice(np.array(far), (20, 6))
    bag(mode, None, False, oob).agrees(ids)
    bag(mode, None, False, oob).agrees(ids.reshape(-1), offsets=np.arange(0, 120, 7))


@pytest.mark.parametrize("bad", [-1, ROWS, 2**31 - 1])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_an_index_outside_is_named(bad: int, dtype: str) -> None:
    compiled = bag("sum").compiled
    ids = indices(ROWS, 30, 7, dtype=dtype)
    ids[20, 3] = bad
    with pytest.raises(tl.IndexOutOfRangeError) as caught:
        compiled(ids)
    assert f"index {bad} at position (20, 3)" in str(caught.value)
    assert f"input_dim={ROWS}" in str(caught.value)
    offsets = np.arange(0, 210, 10, dtype=dtype)
    with pytest.raises(tl.IndexOutOfRangeError, match=f"index {bad} at position 143 "):
        compiled(ids.reshape(-1), offsets)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([1, 2, 3], "begin at 1; they must begin at 0"),
        ([-1, 2, 3], "begin at -1"),
        ([0, 4, 3], "decrease from 4 to 3 at position 2"),
        ([0, 5, -7], "decrease from 5 to -7 at position 2"),
        ([0, 4, 11], "run past the end: 11 at position 2, with 10 indices"),
        ([0, 99, 2], "decrease from 99 to 2"),
        ([0, 2**31 - 1, 2**31 - 1], "run past the end"),
    ],
)
@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("include_last_offset", [False, True])
def test_bad_offsets_are_refused(
    offsets: list[int], message: str, dtype: str, include_last_offset: bool
) -> None:
    compiled = bag("sum", None, include_last_offset).compiled
    good = np.array([0, 3, 10], dtype)
    ids = indices(ROWS, 10, dtype=dtype)
    before = compiled(ids, good)
    with pytest.raises(tl.OffsetsError, match=message):
        compiled(ids, np.array(offsets, dtype))
    np.testing.assert_array_equal(compiled(ids, good), before)


@pytest.mark.parametrize(("last", "total"), [(9, 10), (11, 10), (0, 10), (3, 0)])
def test_a_last_offset_that_is_not_the_number_of_indices_is_refused(last: int, total: int) -> None:
    with pytest.raises(tl.OffsetsError):
        bag("sum", None, True).compiled(indices(ROWS, total), np.array([0, min(3, last), last]))


def test_no_offsets_are_refused_where_the_last_one_is_due() -> None:
    compiled = bag("sum", None, True).compiled
    with pytest.raises(tl.OffsetsError, match=r"pass \[0\] for no bags"):
        compiled(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert compiled(np.zeros(0, np.int64), np.zeros(1, np.int64)).shape == (0, WIDTH)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_mode_without_weights_refuses_them(mode: str) -> None:
    with pytest.raises(tl.TvmLayersError):
        bag(mode).compiled(np.zeros((2, 3), np.int64), per_sample_weights=np.ones((2, 3), "f4"))


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(tl.ShapeError):
        bag("sum").compiled(np.zeros((2, 3), np.int64), per_sample_weights=np.ones((2, 4), "f4"))


@pytest.mark.parametrize("mode", MODES)
def test_one_long_bag_agrees(mode: str) -> None:
    bag(mode).agrees(indices(ROWS, 1, 20_000))
    bag(mode).agrees(indices(ROWS, 20_000), offsets=np.array([0, 20_000]))


def test_bags_in_a_functional_model_share_their_inputs() -> None:
    ids = tl.Input((None,), batch=False, name="ids")
    offsets, factors = tl.Input((), dtype="int64"), tl.Input((None,), batch=False)
    bags = [
        tl.EmbeddingBag(ROWS, 8, mode="sum")(ids, offsets, per_sample_weights=factors),
        tl.EmbeddingBag(ROWS, 4, mode="max")(ids, offsets),
        tl.EmbeddingBag(ROWS, 3, mode="mean")(ids, offsets),
    ]
    twin = Twin(tl.Model([ids, offsets, factors], tl.Dense(5, "relu")(tl.Concatenate()(bags))))
    for batch in BATCHES:
        given_ids, given_offsets = ragged(lengths_of(batch), False)
        twin.agrees(given_ids, given_offsets, normal(len(given_ids)))
    with pytest.raises(tl.OffsetsError):
        twin.compiled(given_ids, given_offsets[::-1].copy(), normal(len(given_ids)))


def test_a_bag_at_the_head_of_a_model_takes_offsets_too() -> None:
    twin = Twin(tl.Sequential([tl.EmbeddingBag(ROWS, 33), tl.Dense(10, "softmax")]))
    for batch in BATCHES:
        ids, offsets = ragged(lengths_of(batch), False)
        twin.agrees(ids, offsets=offsets)
        twin.agrees(ids, offsets=offsets, per_sample_weights=normal(len(ids)) ** 2)
        twin.agrees(indices(ROWS, batch, 5))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_bags_agree(data: Any) -> None:
    mode = data.draw(st.sampled_from(MODES))
    padding_idx = data.draw(st.sampled_from(PADDINGS))
    last = data.draw(st.booleans())
    lengths = np.array(data.draw(st.lists(st.integers(0, 40), max_size=30)), dtype=int)
    ids, offsets = ragged(lengths, last, data.draw(st.sampled_from(["int32", "int64"])))
    more = {"offsets": offsets}
    if mode in WEIGHTED and data.draw(st.booleans()):
        more["per_sample_weights"] = np.abs(normal(len(ids))) + np.float32(0.1)
    bag(mode, padding_idx, last).agrees(ids, **more)
