"""Calls of shapes that were there before take a short way, and mean what the general way does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from agreement import indices, normal
from emulator import driver, emulated
from test_cuda_out import there, torch_there
from together import together

import tvmlayers as tl
from tvmlayers.runtime.cuda import CudaCompiled, DeviceArray
from tvmlayers.runtime.cuda.fastcall import MOST_FORMS


def words() -> CudaCompiled:
    return emulated(tl.Sequential([tl.Embedding(50, 8, input_length=4), tl.Flatten(), tl.Dense(6)]))


def test_the_second_call_of_a_form_takes_the_short_way() -> None:
    model = words()
    for ids in (indices(50, 7, 4), indices(50, 7, 4, seed=2), indices(50, 3, 4)):
        given = there(ids)
        first = model(given)
        assert model._forms.find((given,), None) is not None
        for result in (first, model(given)):
            assert isinstance(result, DeviceArray)
            np.testing.assert_array_equal(result.numpy(), model(ids))


def test_the_short_way_of_torch_writes_to_out() -> None:
    model = emulated(tl.Embedding(50, 8, input_length=4))
    out = torch_there(np.zeros((7, 4, 8), np.float32))
    for seed in (1, 2, 3):
        ids = indices(50, 7, 4, seed=seed)
        given = torch_there(ids)
        assert model(given, out=out) is out
        assert model._forms.find((given,), out) is not None
        np.testing.assert_array_equal(out.numpy(), model(ids))


@pytest.mark.parametrize("make", [there, torch_there])
def test_an_index_out_of_range_raises_on_the_short_way_too(make: type) -> None:
    model, wrong = emulated(tl.Embedding(50, 8, input_length=4)), indices(50, 7, 4)
    out = make(np.zeros((7, 4, 8), np.float32))
    model(make(wrong), out=out)
    wrong[5, 2] = 50
    given = make(wrong)
    assert model._forms.find((given,), out) is not None
    with pytest.raises(tl.IndexOutOfRangeError, match=r"index 50 at position \(5, 2\)"):
        model(given, out=out)
    model.deferred = True
    model(given, out=out)
    with pytest.raises(tl.IndexOutOfRangeError, match="embedding"):
        model.check()


def test_what_is_unlike_a_form_goes_the_general_way() -> None:
    model = emulated(tl.Dense(16, input_dim=16))
    x = normal(5, 16)
    wanted = model(there(x)).numpy()
    room = torch_there(np.concatenate([[0], x.ravel()]).astype(np.float32))
    out = torch_there(np.zeros((5, 16), np.float32))
    model(torch_there(x), out=out)
    for unlike in (room[1:].view(5, 16), torch_there(x.T).T):
        assert model._forms.find((unlike,), out) is None
    model(torch_there(x.T).T, out=out)
    np.testing.assert_array_equal(out.numpy(), wanted)
    with pytest.raises(tl.DTypeError, match="got float64"):
        model(there(x.astype(np.float64)))


def test_several_inputs_take_the_short_way() -> None:
    model = emulated(tl.EmbeddingBag(50, 4))
    ids, offsets = indices(50, 9), np.array([0, 4, 4])
    given = there(ids), there(offsets)
    wanted = model(ids, offsets)
    for _ in range(2):
        np.testing.assert_array_equal(model(*given).numpy(), wanted)
    assert model._forms.find(given, None) is not None


@pytest.mark.parametrize("make", [np.asarray, there, torch_there])
def test_a_bound_call_fills_the_same_buffer_each_time(make: Callable[..., Any]) -> None:
    model, ids = emulated(tl.Embedding(50, 8, input_length=4)), indices(50, 7, 4)
    given, wanted = make(ids), model(ids)
    # Without a GPU torch can make no buffer there.
    bound = model.bind(given, out=make(np.zeros_like(wanted)) if make is torch_there else None)
    (out,) = bound.outputs
    for _ in range(2):
        assert bound() is out
        np.testing.assert_array_equal(out if make is np.asarray else out.numpy(), wanted)
    assert bound.inputs == (given,)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_later_calls_of_every_way_use_new_weights(dtype: str) -> None:
    old, new = (tl.Sequential([tl.Dense(6, input_dim=9, dtype=dtype, seed=s)]) for s in (1, 2))
    model, x = emulated(old), normal(5, 9).astype(dtype)
    wanted = emulated(new)(x)
    bound = model.bind(there(x))
    for _ in range(2):
        assert not np.array_equal(model(there(x)).numpy(), wanted)
    with pytest.raises(tl.WeightsError, match="missing 'dense/bias'"):
        model.set_weights({"dense/kernel": new.get_weights()[0]})
    model.set_weights(new.get_weights())
    for given in (model(x), model(there(x)).numpy(), bound().numpy()):
        np.testing.assert_array_equal(given, wanted)


def test_forms_fill_no_memory() -> None:
    model = emulated(tl.Dense(2, input_dim=2))
    for batch in range(MOST_FORMS + 9):
        model(there(np.ones((batch, 2), np.float32)))
    assert len(model._forms) <= MOST_FORMS


def test_threads_call_one_model_at_once() -> None:
    model = emulated(tl.Dense(16, input_dim=16))
    given = [normal(5, 16, seed=seed) for seed in range(4)]
    wanted = [model(x) for x in given]
    wrong: list[int] = []

    def work(place: int) -> None:
        x = there(given[place])
        for _ in range(50):
            if not np.array_equal(model(x).numpy(), wanted[place]):
                wrong.append(place)

    together(work, range(4))
    assert not wrong
    assert driver() is model.driver


@pytest.mark.parametrize("lead", [(7,), (2, 3, 4), (0,), (2, 3)])
def test_any_leading_axes_are_taken_where_the_layers_do(lead: tuple[int, ...]) -> None:
    table = np.ones((50, 8), np.float32).cumsum(0)
    model = emulated(tl.Embedding(50, 8, weights=table))
    ids = np.asarray(indices(50, *lead))
    out = there(np.zeros((*lead, 8), np.float32))
    for _ in range(2):
        np.testing.assert_array_equal(model(ids), table[ids])
        result = model(there(ids))
        assert result.shape == (*lead, 8)
        np.testing.assert_array_equal(result.numpy(), table[ids])
        assert model(there(ids), out=out) is out
        np.testing.assert_array_equal(out.numpy(), table[ids])
    if ids.size:
        wrong = np.where(ids == ids.max(), 50, ids)
        place = ", ".join(map(str, np.unravel_index(np.argmax(wrong == 50), lead)))
        at = f"({place})" if len(lead) > 1 else place
        for given in (wrong, there(wrong)):
            with pytest.raises(tl.IndexOutOfRangeError) as found:
                model(given)
            assert f"at position {at}" in str(found.value)
