"""Bound calls: buffers chosen once, read and written where they lie at every call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from handmade import IDS, TABLE
from together import together

import tvmlayers as tl
from tvmlayers.runtime.compiled import Compiled

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_bound_call_reads_what_its_inputs_hold_at_each_call(
    embedding: Compiled, kind: Any
) -> None:
    ids = IDS.copy()
    bound = embedding.bind(kind(ids))
    result = bound()
    assert type(result) is type(kind(ids))
    np.testing.assert_array_equal(np.asarray(result), TABLE[ids])
    ids[...] = ids[::-1].copy()
    assert bound() is result
    np.testing.assert_array_equal(np.asarray(result), TABLE[ids])


def test_the_inputs_and_outputs_of_a_bound_call_are_the_callers(bag: Compiled) -> None:
    indices, offsets, out = np.array([0, 1, 4]), np.array([0, 2]), np.empty((2, 4), np.float32)
    bound = bag.bind(offsets=offsets, indices=indices, out=out)
    assert bound.inputs[0] is indices
    assert bound.inputs[1] is offsets
    assert bound.outputs == (out,)
    assert bound() is out
    np.testing.assert_array_equal(out, [TABLE[0] + TABLE[1], TABLE[4]])


def test_several_outputs_of_a_bound_call_are_a_list(scale: Compiled) -> None:
    x = np.array([[1, 2, 3]], np.float32)
    bound = scale.bind(x)
    x += 1
    assert [each.tolist() for each in bound()] == [[[4, 6, 8]], [2]]


def test_a_read_only_input_can_be_bound(embedding: Compiled) -> None:
    ids = IDS.copy()
    ids.flags.writeable = False
    np.testing.assert_array_equal(embedding.bind(ids)(), TABLE[IDS])


def test_a_bound_call_without_rows_gives_none(embedding: Compiled) -> None:
    assert embedding.bind(IDS[:0])().shape == (0, 10, 4)


def test_a_bad_index_raises_when_it_is_bound_and_at_each_call(embedding: Compiled) -> None:
    ids = IDS.copy()
    bound = embedding.bind(ids)
    ids[1, 2] = 5
    with pytest.raises(tl.IndexOutOfRangeError, match=r"index 5 at position \(1, 2\)"):
        bound()
    with pytest.raises(tl.IndexOutOfRangeError, match=r"index 5 at position \(1, 2\)"):
        embedding.bind(ids)
    ids[1, 2] = 4
    np.testing.assert_array_equal(bound(), TABLE[ids])


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (IDS.tolist(), tl.DTypeError, "expected a tensor .* got list; pass np.asarray"),
        (IDS.astype(np.int16), tl.DTypeError, "expected int32, got int16; pass one of that dtype"),
        (np.asfortranarray(IDS), tl.ShapeError, "packed in C order .* got strides"),
        (torch.from_numpy(IDS).T.contiguous().T, tl.ShapeError, "packed in C order"),
        (IDS[:, :9], tl.ShapeError, "sequences of length 10, got 9"),
    ],
    ids=["list", "dtype", "order", "torch-order", "shape"],
)
def test_what_a_call_would_copy_cannot_be_bound(
    embedding: Compiled, ids: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        embedding.bind(ids)


def test_a_tensor_with_a_pending_sign_cannot_be_bound(scale: Compiled) -> None:
    negative = torch._neg_view(torch.ones(1, 3))
    assert scale(negative)[0].tolist() == [[-2, -2, -2]]
    with pytest.raises(tl.ShapeError, match="bind reads input 'x' where it lies"):
        scale.bind(negative)


def test_a_buffer_that_does_not_fit_is_refused_when_it_is_bound(embedding: Compiled) -> None:
    with pytest.raises(tl.ShapeError, match="out expected shape"):
        embedding.bind(IDS, out=np.empty((2, 10, 4), np.float32))


def test_models_with_memory_between_their_layers_are_bound_from_many_threads() -> None:
    layers = [tl.Dense(96, activation="relu"), tl.Dense(33, activation="gelu"), tl.Dense(5)]
    model = tl.Sequential(layers)
    model.build((None, 64))
    compiled = tl.compile(model)
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(rows, 64)).astype(np.float32) for rows in (1, 7, 300, 2000)]
    expected = [compiled(x) for x in batches]
    wrong: list[int] = []

    def work(turn: int) -> None:
        bound = [compiled.bind(x) for x in batches]
        for _ in range(20):
            if not all(np.array_equal(b(), y) for b, y in zip(bound, expected, strict=True)):
                wrong.append(turn)

    together(work, range(3))
    assert not wrong
