"""Arrays of a GPU, the emulated one, that go from library to library by DLPack."""

from __future__ import annotations

import ctypes
import gc
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from agreement import indices, normal
from emulator import device, driver, emulated
from test_cuda_out import torch_there

import tvmlayers as tl
from tvmlayers.errors import DTypeError
from tvmlayers.runtime import ffi
from tvmlayers.runtime.cuda import DeviceArray, held, to_device
from tvmlayers.runtime.cuda.arrays import view_of

DEFAULT, MINE, OTHER = 1, 0x100, 0x200


@pytest.fixture(autouse=True)
def streams() -> Iterator[None]:
    device().emulated_stream.restype = device().emulated_waited.restype = ctypes.c_void_p
    yield
    assert device().emulated_events() == 0


def there(array: object) -> DeviceArray:
    return to_device(array, driver=driver())


def waited() -> tuple[int, int]:
    """(whom, who): the last two streams of which one waited."""
    return device().emulated_waited(0) or 0, device().emulated_waited(1) or 0


class Cupboard:
    """An array on the GPU of a library with DLPack and the array API, as CuPy's are."""

    current = MINE

    def __init__(self, array: Any) -> None:
        self.array = array
        self.asked: list[int] = []

    def __dlpack__(self, *, stream: int) -> Any:
        self.asked.append(stream)
        return self.array.__dlpack__(stream=stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __array_namespace__(self) -> Any:
        return types.SimpleNamespace(from_dlpack=Cupboard.take)

    @staticmethod
    def take(other: Any) -> Cupboard:
        other.__dlpack__(stream=Cupboard.current, max_version=(1, 0))
        return Cupboard(other)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (4, 3, 2)])
def test_what_is_lent_is_the_same_memory(dtype: str, shape: tuple[int, ...]) -> None:
    lent = DeviceArray(shape, tl.dtypes.numpy_dtype(dtype), driver=driver())
    for version in (None, (1, 0)):
        seen = (
            ffi.ffi.from_dlpack(lent)
            if version is None
            else ffi.ffi.from_dlpack(lent.__dlpack__(max_version=version))
        )
        assert (str(seen.dtype), tuple(seen.shape)) == (dtype, shape)
        assert seen.data_ptr() == lent.address or not lent.nbytes
        assert view_of(seen, "x", 0).dtype == lent.dtype


def test_memory_lives_as_long_as_its_last_reader() -> None:
    before = device().emulated_live()
    lent = there(normal(1000))
    reader = ffi.ffi.from_dlpack(lent)
    del lent
    gc.collect()
    assert device().emulated_live() == before + 4000
    del reader
    gc.collect()
    assert device().emulated_live() == before


@pytest.mark.parametrize(
    ("stream", "after"), [(None, 0), (DEFAULT, 0), (OTHER, OTHER), (-1, None), (MINE, None)]
)
def test_another_stream_waits_before_it_reads(stream: int | None, after: int | None) -> None:
    lent = DeviceArray((3,), "float32", driver=driver(), stream=MINE)
    driver().order(7, 7)
    lent.__dlpack__(stream=stream)
    assert waited() == ((7, 7) if after is None else (MINE, after))


def test_an_array_on_the_default_stream_is_read_there_at_once() -> None:
    driver().order(7, 7)
    there(normal(3)).__dlpack__(stream=DEFAULT)
    there(normal(3)).__dlpack__()
    assert waited() == (7, 7)


def test_what_the_standard_forbids_is_refused() -> None:
    lent = there(normal(3))
    with pytest.raises(ValueError, match="1 is CUDA's default stream"):
        lent.__dlpack__(stream=0)
    with pytest.raises(BufferError, match="lent, not copied"):
        lent.__dlpack__(copy=True)
    with pytest.raises(BufferError, match=r"on \(2, 0\), asked was \(1, 0\)"):
        lent.__dlpack__(dl_device=(1, 0))


def test_the_other_interface_names_the_stream_and_no_bfloat16() -> None:
    said = DeviceArray((3,), "float32", driver=driver(), stream=MINE).__cuda_array_interface__
    assert (said["stream"], said["typestr"]) == (MINE, "<f4")
    assert there(normal(3)).__cuda_array_interface__["stream"] == DEFAULT
    half = DeviceArray((3,), tl.dtypes.numpy_dtype("bfloat16"), driver=driver())
    assert not hasattr(half, "__cuda_array_interface__")


def test_arrays_of_a_library_are_asked_for_the_stream_of_the_call_and_give_their_kind() -> None:
    model = emulated(tl.Embedding(50, 8, input_length=4))
    ids = indices(50, 9, 4)
    given = Cupboard(there(ids))
    result = model(given)
    assert isinstance(result, Cupboard)
    assert given.asked == [DEFAULT]
    np.testing.assert_array_equal(result.array.numpy(), model(ids))


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = types.SimpleNamespace(
        get_current_stream=lambda ordinal: types.SimpleNamespace(ptr=Cupboard.current + ordinal)
    )
    made = types.SimpleNamespace(ndarray=Cupboard, cuda=cuda)
    monkeypatch.setitem(sys.modules, "cupy", made)


@pytest.mark.usefixtures("cupy")
def test_tensors_of_torch_beside_arrays_of_cupy_are_waited_for_and_torch_waits() -> None:
    inputs = [tl.Input((16,)), tl.Input((8,))]
    model = emulated(tl.Model(inputs, tl.Concatenate()(inputs)))
    first, second = normal(5, 16), normal(5, 8)
    order, orders = driver().order, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver(), "order", lambda *pair: (orders.append(pair), order(*pair)))
        result = model(torch_there(first), Cupboard(there(second)))
    assert orders[0] == (0, MINE)
    assert (MINE, 0) in orders[1:]
    np.testing.assert_array_equal(result.array.numpy(), model(first, second))


@pytest.mark.usefixtures("cupy")
def test_arrays_of_cupy_go_on_its_current_stream() -> None:
    model = emulated(tl.Dense(8, input_dim=16))
    x = normal(5, 16)
    given, out = Cupboard(there(x)), Cupboard(DeviceArray((5, 8), "float32", driver=driver()))
    result = model(given)
    assert device().emulated_stream() == MINE
    assert given.asked == [MINE]
    assert result.array.stream == MINE
    model(given, out=out)
    assert out.asked == [MINE]
    np.testing.assert_array_equal(out.array.numpy(), result.array.numpy())
    ours = DeviceArray((5, 8), "float32", driver=driver(), stream=OTHER)
    model(given, out=ours)
    assert ours.stream == MINE
    for _ in range(2):  # the second call takes the short way
        ours.stream = OTHER
        model(there(x), out=ours)
        assert not device().emulated_stream()
        assert ours.stream == 0


def test_a_result_of_one_stream_is_waited_for_on_another() -> None:
    model = emulated(tl.Dense(8, input_dim=16))
    x = there(normal(5, 16))
    for _ in range(2):  # the second call takes the short way
        x.stream = OTHER
        driver().order(7, 7)
        model(x)
        assert waited() == (OTHER, 0)
    filled = DeviceArray((5, 8), "float32", driver=driver(), stream=MINE)
    x.stream = 0
    for _ in range(2):
        filled.stream = MINE
        model(x, out=filled)
        assert waited() == (MINE, 0)
        assert filled.stream == 0


@pytest.fixture
def unread() -> Iterator[None]:
    """The GPU reads nothing while it lasts."""
    device().emulated_let_events_happen(0)
    yield
    device().emulated_let_events_happen(1)


def test_what_another_library_lends_is_held_until_the_gpu_has_read_it(unread: None) -> None:
    model = emulated(tl.Dense(8, input_dim=16))
    x = normal(5, 16)
    before = device().emulated_live()
    model(x)
    resident = device().emulated_live()
    assert resident > before
    lent = Cupboard(there(x))
    seen = weakref.ref(lent)
    model(lent)
    del lent
    gc.collect()
    assert seen() is not None
    device().emulated_let_events_happen(1)
    model(Cupboard(there(x)))
    gc.collect()
    assert seen() is None
    assert device().emulated_live() == resident


def test_the_oldest_of_many_calls_is_waited_for_and_all_with_the_model(unread: None) -> None:
    model = emulated(tl.Dense(8, input_dim=16))
    waits = device().emulated_event_waits()
    for _ in range(held.MOST + 3):
        model(Cupboard(there(normal(1, 16))))
    assert device().emulated_event_waits() == waits + 3
    del model
    gc.collect()
    assert device().emulated_event_waits() == waits + 3 + held.MOST
    assert device().emulated_events() == 0


def test_a_tensor_that_is_not_handed_out_is_refused_by_name() -> None:
    class Closed(Cupboard):
        def __dlpack__(self, *, stream: int) -> Any:
            raise BufferError("it is on a leash")

    model = emulated(tl.Dense(8, input_dim=16))
    with pytest.raises(DTypeError, match=r"input 'input' \(Closed\) cannot be read .* on a leash"):
        model(Closed(there(normal(5, 16))))
