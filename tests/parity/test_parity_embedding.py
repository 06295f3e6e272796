"""Embedding gives the rows of its table to the last bit, and says which index it cannot take."""

from __future__ import annotations

from functools import cache
from itertools import cycle, product
from typing import Any

import numpy as np
import pytest
from agreement import BATCHES, Array, Twin, compile_here, indices, on_cpu, unless_emulated
from hypothesis import given, settings
from hypothesis import strategies as st

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.codegen.compiler import assembly, compile_selected
from tvmlayers.codegen.streaming import stream_from
from tvmlayers.layers import as_model
from tvmlayers.layers.checks import INDEX_DTYPES
from tvmlayers.layers.embedding import OUT_OF_BOUNDS
from tvmlayers.schedule import Selector, analytic
from tvmlayers.spaces import choices_of
from tvmlayers.workload import Workload

ROWS = 97
WIDTHS = (1, 3, 10, 16, 17, 64, 100, 768)
DTYPES = ("float32", "float64")
FORGIVING = ("clip", "zero")


@cache
def tables(oob: str, dtype: str = "float32", target: str = "native") -> Twin:
    """A table of each width, all read by the same indices (n, n1)."""
    ids = tl.Input((None,), name="ids")
    outputs = [tl.Embedding(ROWS, width, oob=oob, dtype=dtype)(ids) for width in WIDTHS]
    return Twin(tl.Model(ids, outputs), target=target)


@cache
def words(oob: str = "raise") -> Twin:
    """indices (n,) -> (n, 5)."""
    return Twin(tl.Embedding(ROWS, 5, oob=oob, input_shape=()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("oob", OUT_OF_BOUNDS)
def test_every_width_gives_the_rows_for_every_batch(oob: str, dtype: str) -> None:
    tables(oob, dtype).agrees_for_every_batch(indices(ROWS, 333, 3))


@on_cpu
@pytest.mark.parametrize(("width", "oob"), [(5, "raise"), (64, "raise"), (100, "zero")])
def test_every_width_of_vectors_and_number_of_rows_in_flight_gives_the_rows(
    width: int, oob: str
) -> None:
    layer, target = tl.Embedding(ROWS, width, oob=oob, input_shape=()), targets.native()
    model = as_model(layer)
    (table,) = layer.get_weights()
    workload = Workload.make("embedding", indices=4096, rows=ROWS, width=width, dtype="float32")
    choices, usual = choices_of(workload, target), analytic(workload, target)
    runs, strides = cycle(choices["unrolled_vectors"]), cycle(choices["prefetch_stride"])
    for vector_bytes, in_flight in product(choices["vector_bytes"], choices["rows_in_flight"]):
        decided = {"vector_bytes": vector_bytes, "rows_in_flight": in_flight, "grain_kib": 12}
        decided |= {"unrolled_vectors": next(runs), "prefetch_stride": next(strides)}
        decided = {**usual, **decided, "prefetch_rows": 8}
        selector = Selector(target, use_records=False, fixed={"embedding": decided})
        compiled = compile_selected(model, selector, threads=2)
        for count in (0, 1, 2, 3, 4, 5, 33, 1001):  # threads may get fewer than are in flight
            ids = indices(ROWS, count)
            np.testing.assert_array_equal(compiled(ids), table[ids])
        ids[500] = ROWS
        if oob == "zero":
            assert not compiled(ids)[500].any()
        else:
            with pytest.raises(tl.IndexOutOfRangeError, match="at position 500"):
                compiled(ids)


@pytest.mark.parametrize("oob", FORGIVING)
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_indices_outside_the_table_are_clipped_or_give_zeros(oob: str, dtype: str) -> None:
    info = np.iinfo(dtype)
    far = [-1, -2, -ROWS, ROWS, ROWS + 1, info.min, info.max, info.min + 1, 0, ROWS - 1]
    ids = np.random.default_rng(0).choice(np.array(far, dtype), (50, 7))
    tables(oob).agrees(ids)


@pytest.mark.parametrize("oob", OUT_OF_BOUNDS)
@pytest.mark.parametrize("dtype", INDEX_DTYPES)
def test_every_index_dtype_is_taken(dtype: str, oob: str) -> None:
    tables(oob).agrees(indices(ROWS, 9, 4, dtype=dtype))


@pytest.mark.parametrize("oob", FORGIVING)
@pytest.mark.parametrize("dtype", INDEX_DTYPES)
def test_narrow_dtypes_keep_their_sign_outside_the_table(dtype: str, oob: str) -> None:
    info = np.iinfo(dtype)
    words(oob).agrees(np.array([info.min, info.max, 0, 1], dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "uint64", "complex64"])
def test_indices_that_are_no_integers_are_refused(dtype: str) -> None:
    with pytest.raises(tl.DTypeError, match=f"got {dtype}"):
        words().compiled(np.zeros(4, dtype))


def test_nan_cast_to_an_index_is_refused_and_not_looked_up() -> None:
    with np.errstate(invalid="ignore"):
        ids = np.array([1.0, np.nan]).astype(np.int64)
    with pytest.raises(tl.IndexOutOfRangeError, match=rf"index {ids[1]} at position 1"):
        words().compiled(ids)


@pytest.mark.parametrize("shape", [(), (3,), (3, 4), (2, 3, 4)])
def test_indices_of_any_shape_give_that_shape_and_a_row(shape: tuple[int, ...]) -> None:
    ids = tl.Input(tuple(None for _ in shape))
    twin = Twin(tl.Model(ids, tl.Embedding(ROWS, 6)(ids)))
    for batch in (0, 1, 5):
        twin.agrees(indices(ROWS, batch, *shape))
    if shape:
        twin.agrees(indices(ROWS, 5, *shape[:-1], 0))


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64"])
@pytest.mark.parametrize("bad", [-1, ROWS, 127, -128])
@pytest.mark.parametrize("place", [0, 1, 500, 998])
def test_an_index_outside_is_named_with_its_place_and_the_vocabulary(
    place: int, bad: int, dtype: str
) -> None:
    ids = indices(ROWS, 999, dtype=dtype)
    ids[place] = bad
    ids[place + 1 :] = np.where(np.arange(999 - place - 1) % 7 == 0, bad, 0)  # the first is named
    with pytest.raises(tl.IndexOutOfRangeError) as caught:
        words().compiled(ids)
    message = str(caught.value)
    assert f"index {bad} at position {place} " in message
    assert f"input_dim={ROWS}" in message
    assert f"0..{ROWS - 1}" in message
    assert "'embedding'" in message
    assert isinstance(caught.value, IndexError)


def test_the_place_in_a_matrix_is_its_row_and_column() -> None:
    ids = indices(ROWS, 40, 7)
    ids[31, 4] = -3
    with pytest.raises(tl.IndexOutOfRangeError, match=r"index -3 at position \(31, 4\)"):
        tables("raise").compiled(ids)


def test_a_call_that_failed_does_not_spoil_the_next() -> None:
    twin, ids = words(), indices(ROWS, 64)
    bad = ids.copy()
    bad[63] = ROWS
    for _ in range(3):
        with pytest.raises(tl.IndexOutOfRangeError):
            twin.compiled(bad)
        twin.agrees(ids)


@pytest.mark.parametrize("bad_input", [0, 1])
def test_of_several_inputs_the_right_one_is_named(bad_input: int) -> None:
    twin = two_tables()
    ids = [indices(10, 5), indices(20, 5)]
    twin.agrees(*ids)
    ids[bad_input][3] = 15 + 10 * bad_input
    with pytest.raises(tl.IndexOutOfRangeError) as caught:
        twin.compiled(*ids)
    wanted = ("'user_ids'", "'users'", "input_dim=10"), ("'item_ids'", "'items'", "input_dim=20")
    assert all(part in str(caught.value) for part in wanted[bad_input])


@cache
def two_tables() -> Twin:
    users, items = tl.Input((), name="user_ids"), tl.Input((), name="item_ids")
    rows = [tl.Embedding(10, 4, name="users")(users), tl.Embedding(20, 4, name="items")(items)]
    return Twin(tl.Model([users, items], tl.Concatenate()(rows)))


def test_of_more_lookups_than_a_status_has_bits_the_one_that_refused_is_named() -> None:
    inputs = [tl.Input((), name=f"ids{i}") for i in range(66)]
    table = tl.Embedding(4, 2)
    twin = Twin(tl.Model(inputs, tl.Concatenate()([table(ids) for ids in inputs])))
    ids = [indices(4, 3, seed=i) for i in range(66)]
    twin.agrees(*ids)
    for bad in (0, 30, 31, 32, 62, 63, 64, 65):
        spoiled = [array.copy() for array in ids]
        spoiled[bad][1] = 4
        with pytest.raises(tl.IndexOutOfRangeError, match=f"position 1 of input 'ids{bad}'"):
            twin.compiled(*spoiled)


def test_a_sequence_of_another_length_is_refused() -> None:
    compiled = compile_here(tl.Embedding(ROWS, 4, input_length=10))
    assert compiled(indices(ROWS, 3, 10)).shape == (3, 10, 4)
    for length in (0, 9, 11):
        with pytest.raises(tl.ShapeError, match=f"length 10, got {length}"):
            compiled(np.zeros((3, length), np.int64))


def test_padding_idx_begins_as_zeros_and_keeps_what_it_is_given() -> None:
    layer = tl.Embedding(ROWS, 4, padding_idx=-1, input_shape=())
    assert not layer.weights["embeddings"][ROWS - 1].any()
    Twin(layer).agrees(indices(ROWS, 50))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_infinities_nan_and_denormals_come_out_as_they_are(dtype: str) -> None:
    info = np.finfo(dtype)
    row = [np.nan, np.inf, -np.inf, -0.0, info.smallest_subnormal, info.max]
    table = np.array([row, row[::-1]], dtype)
    layer = tl.Embedding(2, 6, dtype=dtype, weights=table, input_shape=())
    ids = np.array([1, 0, 1])
    assert compile_here(layer)(ids).tobytes() == table[ids].tobytes()


def test_a_table_of_a_hundred_thousand_rows_is_read_to_its_end() -> None:
    twin = Twin(tl.Embedding(100_003, 24, input_shape=()))
    twin.agrees_for_every_batch(indices(100_003, 5000), batches=(*BATCHES, 4999, 5000))


@settings(max_examples=12, deadline=None)
@given(rows=st.integers(1, 60), width=st.integers(1, 80), data=st.data())
def test_any_table_gives_any_rows(rows: int, width: int, data: Any) -> None:
    oob = data.draw(st.sampled_from(FORGIVING))
    dtype = data.draw(st.sampled_from(DTYPES))
    twin = Twin(tl.Embedding(rows, width, oob=oob, dtype=dtype))
    for _ in range(4):
        shape = data.draw(st.tuples(st.integers(0, 50), st.integers(0, 9)))
        twin.agrees(random_ids(rows, shape, data.draw(st.integers(0, 99))))


def random_ids(rows: int, shape: tuple[int, ...], seed: int) -> Array:
    return np.random.default_rng(seed).integers(-rows, 2 * rows, shape)


@unless_emulated
@pytest.mark.parametrize("oob", OUT_OF_BOUNDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_result_past_the_caches_are_right(oob: str, dtype: str) -> None:
    ids = tl.Input((), name="ids", dtype="int64")
    for width in (3, 6, 16, 100, 64):
        model = tl.Model(ids, tl.Embedding(ROWS, width, oob=oob, dtype=dtype)(ids))
        (table,) = model.get_weights()
        compiled = compile_here(model)
        enough = stream_from(targets.native()) // table[0].nbytes + 1
        for count in (enough - 2, enough, enough + 777):
            given = indices(ROWS, count)
            want = table[given]
            if oob in FORGIVING:
                given[count // 2], want[count // 2] = ROWS, 0 if oob == "zero" else table[-1]
            np.testing.assert_array_equal(compiled(given), want)


@unless_emulated
def test_an_index_outside_is_reported_from_a_result_past_the_caches() -> None:
    compiled = compile_here(tl.Embedding(ROWS, 64, input_shape=()))
    given = indices(ROWS, stream_from(targets.native()) // 256 + 1)
    given[-1] = -5
    with pytest.raises(tl.IndexOutOfRangeError, match="-5"):
        compiled(given)


@on_cpu
@pytest.mark.parametrize(
    ("target", "width", "read_again", "streams"),
    [
        ("x86-64-v3", 64, False, True),
        ("sapphirerapids", 100, False, True),
        ("sapphirerapids", 3, False, False),
        ("sapphirerapids", 64, True, False),
        ("cortex-a72", 64, False, False),
    ],
)
def test_only_results_that_leave_the_model_are_written_past_the_caches(
    target: str, width: int, read_again: bool, streams: bool
) -> None:
    ids = tl.Input((), name="ids", dtype="int64")
    rows = tl.Embedding(ROWS, width)(ids)
    model = tl.Model(ids, [rows, tl.Activation("relu")(rows)] if read_again else rows)
    code = assembly(model, Selector(targets.resolve(target), use_records=False))
    assert ("vmovnt" in code) == streams
    assert ("sfence" in code) == streams
