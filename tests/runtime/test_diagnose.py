"""What is wrong with an input is said, and nothing wrong is computed."""

from __future__ import annotations

from typing import Any

import handmade
import numpy as np
import pytest
from handmade import IDS, ROWS, Foreign
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tvmlayers as tl
from tvmlayers.runtime.compiled import Compiled

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("wrong", [-1, ROWS, 2**31, -(2**63)])
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_a_bad_index_is_named_with_its_place_and_the_vocabulary(
    embedding: Compiled, wrong: int, kind: Any
) -> None:
    ids = IDS.copy()
    ids[2, 7] = wrong
    with pytest.raises(IndexError) as caught:
        embedding(kind(ids))
    assert isinstance(caught.value, tl.IndexOutOfRangeError)
    text = str(caught.value)
    assert f"index {wrong} at position (2, 7) of input 'ids'" in text
    assert "layer 'embedding' (input_dim=5, valid 0..4)" in text


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([1, 2], "begin at 1"),
        ([0, 3, 2], "decrease from 3 to 2 at position 2"),
        ([0, 9], "run past the end: 9 at position 1, with 4 indices"),
        ([-1, 2], "begin at -1"),
    ],
)
def test_bad_offsets_are_explained(bag: Compiled, offsets: list[int], message: str) -> None:
    with pytest.raises(tl.OffsetsError, match=message):
        bag(np.array([0, 1, 2, 3]), np.array(offsets))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (IDS[0], r"expected 2 axes \(n, 10\), got 1 \(10,\); add the batch axis"),
        (IDS[None], "expected 2 axes"),
        (np.int64(3), "expected 2 axes"),
        (IDS[:, :7], "expects sequences of length 10, got 7"),
        ([[1], [2, 3]], "cannot become one"),
    ],
)
def test_a_wrong_shape_is_explained(embedding: Compiled, ids: Any, message: str) -> None:
    with pytest.raises(tl.ShapeError, match=message):
        embedding(ids)


def test_wrong_features_are_explained(scale: Compiled) -> None:
    with pytest.raises(tl.ShapeError, match="expects 3 features on its last axis, got 4"):
        scale(np.zeros((2, 4), np.float32))


@pytest.mark.parametrize(
    "ids",
    [
        IDS.astype(np.float32),
        np.full((1, 10), np.nan),
        IDS.astype(bool),
        IDS.astype(np.uint64),
        IDS.astype(np.complex64),
        IDS.astype(object),
        IDS.astype(str),
        IDS.astype("M8[s]"),
        [[0.5] * 10],
        [[True] * 10],
        [[2**70] * 10],
        np.ma.masked_array(IDS),
        torch.from_numpy(IDS).to(torch.bfloat16),
        torch.from_numpy(IDS).to_sparse(),
        Foreign(IDS.astype(np.float64)),
        None,
        object(),
        "text",
    ],
    ids=lambda ids: f"{type(ids).__name__}-{getattr(ids, 'dtype', '')}",
)
def test_what_is_no_integer_tensor_is_refused(embedding: Compiled, ids: Any) -> None:
    for _ in range(2):
        with pytest.raises((tl.DTypeError, tl.ShapeError)):
            embedding(ids)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "bool"])
def test_values_are_never_narrowed_in_silence(scale: Compiled, dtype: str) -> None:
    with pytest.raises(TypeError, match=r"expected float32.*astype\('float32'\)"):
        scale(np.zeros((2, 3), dtype))


def test_a_tensor_on_another_device_is_refused(embedding: Compiled) -> None:
    with pytest.raises(tl.DeviceError, match="'meta'"):
        embedding(torch.from_numpy(IDS).to("meta"))
    with pytest.raises(tl.DeviceError, match="device type 2"):
        embedding(Foreign(IDS, device=2))


@given(st.data())
def test_no_shape_crashes(data: st.DataObject) -> None:
    model = handmade.make(handmade.embedding_manifest())
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=11))
    ids = np.zeros(shape, data.draw(st.sampled_from(["int32", "int64", "float32"])))
    if ids.dtype.kind == "i" and len(shape) == 2 and shape[1] == 10:
        assert model(ids).shape == (*shape, 4)
    else:
        with pytest.raises(tl.TvmLayersError):
            model(ids)
