"""A compiled model takes what its layers take: any leading axes where they leave these alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers.layers.graph import leading_axes
from tvmlayers.runtime import ffi
from tvmlayers.runtime.compiled import Compiled

torch = pytest.importorskip("torch")

TABLE = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
LEADS: list[tuple[int, ...]] = [
    (),
    (7,),
    (2, 3),
    (2, 3, 4),
    (0,),
    (2, 0),
    (0, 3, 1),
    (1, 1, 1, 1, 2),
]


@pytest.fixture(scope="module")
def lookup() -> Compiled:
    """indices (n, n1) -> (n, n1, 8)"""
    return tl.compile(tl.Embedding(50, 8, weights=TABLE))


@pytest.fixture(scope="module")
def dense() -> Compiled:
    """x (n, 6) -> (n, 4)"""
    layer = tl.Dense(4, use_bias=False, input_dim=6)
    layer.set_weights([KERNEL])
    return tl.compile(layer)


def kinds(array: np.ndarray) -> list[Any]:
    """The array as NumPy's, torch's and TVM's, unpacked and read-only."""
    unpacked = np.repeat(array[..., None], 2, axis=-1)[..., 0]
    read_only = array.copy()
    read_only.flags.writeable = False
    return [
        array,
        torch.from_numpy(array.copy()),
        ffi.from_array(array.copy()),
        unpacked,
        read_only,
    ]


def ids_of(lead: tuple[int, ...], dtype: str = "int64") -> np.ndarray:
    return np.random.default_rng(2).integers(0, 50, lead).astype(dtype).reshape(lead)


def rows_of(lead: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(*lead, 6)).astype(np.float32)


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_an_embedding_takes_indices_of_any_rank(
    lookup: Compiled, lead: tuple[int, ...], dtype: str
) -> None:
    ids = ids_of(lead, dtype)
    for value in kinds(ids):
        for _ in range(3):  # by the general way, and by those that it teaches
            result = lookup(value)
            assert tuple(result.shape) == (*lead, 8)
            np.testing.assert_array_equal(np.from_dlpack(result), TABLE[ids])
            assert type(result) is type(value)


@pytest.mark.parametrize("lead", LEADS)
def test_a_dense_layer_takes_rows_of_any_rank(dense: Compiled, lead: tuple[int, ...]) -> None:
    x = rows_of(lead)
    expected = dense(x.reshape(-1, 6)).reshape((*lead, 4))
    for value in kinds(x):
        for _ in range(3):
            result = dense(value)
            assert tuple(result.shape) == (*lead, 4)
            np.testing.assert_array_equal(np.from_dlpack(result), expected)
            assert type(result) is type(value)
        np.testing.assert_array_equal(np.from_dlpack(dense(input=value)), expected)


def test_lists_and_numbers_are_tensors_of_their_rank(lookup: Compiled, dense: Compiled) -> None:
    np.testing.assert_array_equal(lookup(3), TABLE[3])
    np.testing.assert_array_equal(lookup([3, 4]), TABLE[[3, 4]])
    np.testing.assert_array_equal(lookup(np.int32(3)), TABLE[3])
    np.testing.assert_allclose(dense([1, 0, 0, 0, 0, 0]), KERNEL[0], rtol=1e-6)


def test_a_layer_takes_a_number_or_a_vector_where_it_leaves_the_leading_axes_alone() -> None:
    table = tl.Embedding(50, 8, weights=TABLE)
    np.testing.assert_array_equal(table(3), TABLE[3])
    np.testing.assert_array_equal(table([3, 4]), TABLE[[3, 4]])
    assert tl.Dense(4)(np.ones(6, np.float32)).shape == (4,)
    assert tl.Activation("relu")(-3.0) == 0


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_out_and_bind_have_the_callers_rank(
    dense: Compiled, lead: tuple[int, ...], kind: Any
) -> None:
    x, expected = kind(rows_of(lead)), dense(rows_of(lead))
    out = kind(np.zeros((*lead, 4), np.float32))
    for _ in range(3):
        assert dense(x, out=out) is out
        np.testing.assert_array_equal(np.asarray(out), expected)
    for bound in (dense.bind(x), dense.bind(x, out=kind(np.zeros((*lead, 4), np.float32)))):
        assert tuple(bound().shape) == (*lead, 4)
        np.testing.assert_array_equal(np.asarray(bound()), expected)
    bound = dense.bind(x)
    x[...] = 0
    assert not np.asarray(bound()).any()


def test_an_out_of_another_rank_is_refused(dense: Compiled) -> None:
    with pytest.raises(tl.ShapeError, match=r"out expected shape \(2, 3, 4\), got \(6, 4\)"):
        dense(rows_of((2, 3)), out=np.zeros((6, 4), np.float32))


def test_a_call_of_any_rank_leaves_the_others_as_they_were(dense: Compiled) -> None:
    for lead in ((3,), (), (3,), (2, 2), (5,)):
        for kind in (np.asarray, torch.from_numpy):
            assert tuple(dense(kind(rows_of(lead))).shape) == (*lead, 4)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 5), (2, 2, 3, 5)])
def test_rows_that_do_not_fit_are_refused_as_the_caller_knows_them(
    dense: Compiled, shape: tuple[int, ...]
) -> None:
    x = np.zeros(shape, np.float32)
    for value in (x, torch.from_numpy(x)):
        for _ in range(2):
            with pytest.raises(tl.ShapeError) as found:
                dense(value)
            assert "input 'input' expected (..., 6)" in str(found.value)
            assert f"got {shape}" in str(found.value)


def test_a_bad_index_is_told_where_the_caller_put_it(lookup: Compiled) -> None:
    ids = np.zeros((2, 3, 4), np.int64)
    ids[1, 2, 3] = 50
    for _ in range(2):
        with pytest.raises(tl.IndexOutOfRangeError, match=r"index 50 at position \(1, 2, 3\)"):
            lookup(ids)
    bound = lookup.bind(np.zeros((2, 3, 4), np.int64))
    bound.inputs[0][0, 1, 0] = -1
    with pytest.raises(tl.IndexOutOfRangeError, match=r"index -1 at position \(0, 1, 0\)"):
        bound()


def wide_and_deep() -> tl.Model:
    """Two inputs (n, 6) and (n, n1 = n) side by side in one result."""
    x, y = tl.Input((6,), name="x"), tl.Input((3,), name="y")
    return tl.Model([x, y], tl.Concatenate()([tl.Dense(2)(x), tl.Activation("relu")(y)]))


def test_several_inputs_share_their_leading_axes() -> None:
    compiled = tl.compile(wide_and_deep())
    x, y = rows_of((2, 3)), np.ones((2, 3, 3), np.float32)
    flat = compiled(x.reshape(6, 6), y.reshape(6, 3))
    for kind in (np.asarray, torch.from_numpy):
        for _ in range(2):
            np.testing.assert_array_equal(compiled(kind(x), kind(y)), flat.reshape(2, 3, 5))
    np.testing.assert_array_equal(compiled(x[0, 0], y[0, 0]), flat[0])
    with pytest.raises(tl.ShapeError, match=r"'x' \(2, 3, 6\) and 'y' \(3, 2, 3\)"):
        compiled(x, y.reshape(3, 2, 3))


def _model(*layers: Any) -> tl.Model:
    return tl.Sequential(list(layers))


@pytest.mark.parametrize(
    ("model", "leading"),
    [
        (_model(tl.Dense(4, "relu", input_dim=6), tl.Activation("softmax"), tl.Dropout(0.5)), 1),
        (_model(tl.Input((None, 6)), tl.Dense(4)), 2),
        (_model(tl.Input((5, 6)), tl.Dense(4)), 1),
        (_model(tl.Embedding(5, 3), tl.Dense(4)), 2),
        (_model(tl.Input((None,)), tl.Activation("relu")), 2),
        (wide_and_deep(), 1),
        (_model(tl.Embedding(5, 3, input_length=4)), 0),
        (_model(tl.Embedding(5, 3), tl.GlobalAveragePooling1D()), 0),
        (_model(tl.Input((4,)), tl.Dense(4), tl.Reshape((2, 2))), 0),
        (_model(tl.Input((4,)), tl.Flatten(), tl.Dense(4)), 0),
        (_model(tl.EmbeddingBag(5, 3)), 0),
    ],
)
def test_which_axes_no_layer_looks_at(model: tl.Model, leading: int) -> None:
    assert leading_axes(model.graph) == leading
    assert tl.compile(model).manifest["leading_axes"] == leading


def test_a_layer_that_knows_its_batch_keeps_its_rank() -> None:
    compiled = tl.compile(_model(tl.Input((4,)), tl.Flatten(), tl.Dense(4)))
    for shape in ((4,), (2, 3, 4)):
        with pytest.raises(tl.ShapeError, match="expected 2 axes"):
            compiled(np.zeros(shape, np.float32))
    with pytest.raises(tl.ShapeError, match="add the batch axis"):
        tl.compile(tl.Embedding(5, 3, input_length=4))(np.zeros(4, np.int64))


def test_a_saved_model_takes_any_rank_and_an_older_artefact_its_own(
    lookup: Compiled, tmp_path: Path
) -> None:
    lookup.save(tmp_path / "lookup.tvml")
    np.testing.assert_array_equal(tl.load(tmp_path / "lookup.tvml")(np.int64(7)), TABLE[7])
    del lookup.manifest["leading_axes"]
    try:
        lookup.save(tmp_path / "older.tvml")
    finally:
        lookup.manifest["leading_axes"] = 2
    older = tl.load(tmp_path / "older.tvml")
    np.testing.assert_array_equal(older([[7]]), TABLE[[[7]]])
    with pytest.raises(tl.ShapeError, match="expected 2 axes"):
        older(np.int64(7))
