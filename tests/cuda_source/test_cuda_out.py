"""`out=` on a GPU, the emulated one: written to, or refused as on the CPU, and never a copy."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from agreement import normal
from emulator import driver, emulated

import tvmlayers as tl
from tvmlayers.artifact.arena import address
from tvmlayers.runtime.cuda import CudaCompiled, DeviceArray, to_device

torch = pytest.importorskip("torch")


class CudaTensor(torch.Tensor):
    """A tensor that says it lies on a GPU: the emulated one reads the host's memory."""

    is_cuda = True
    device = torch.device("cuda", 0)


def torch_there(array: Any) -> Any:
    """A torch tensor on the emulated GPU, at a multiple of 16 bytes."""
    return torch.from_numpy(np.ascontiguousarray(array)).clone().as_subclass(CudaTensor)


def there(array: Any) -> DeviceArray:
    return to_device(array, driver=driver())


def fresh(*shape: int, dtype: str = "float32") -> DeviceArray:
    return DeviceArray(shape, dtype, driver=driver())


@cache
def square() -> CudaCompiled:
    """x (n, 16) -> (n, 16)."""
    return emulated(tl.Dense(16, input_dim=16))


X = normal(5, 16)


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("make", [there, torch_there])
@pytest.mark.parametrize("make_out", [there, torch_there])
def test_out_of_either_kind_is_written_for_inputs_of_either(
    make: Any, make_out: Any, calls: int
) -> None:
    out = make_out(np.zeros((5, 16), np.float32))
    for _ in range(calls):
        assert square()(make(X), out=out) is out
    np.testing.assert_array_equal(out.numpy(), square()(X))


@pytest.mark.parametrize("make", [there, torch_there])
@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.zeros((5, 16), np.float32), tl.DeviceError, "out is on the host .* on GPU 0"),
        (torch.zeros(5, 16), tl.DeviceError, "out is on the host .* on GPU 0"),
        (torch.zeros(5, 16, device="meta"), tl.DeviceError, "out is on device 'meta'"),
        (3, tl.DTypeError, "out expected a tensor to write to, got int"),
        ([], tl.ShapeError, "out expected 1 buffers, got 0"),
        (torch_there(np.zeros((16, 5), np.float32)).T, tl.ShapeError, "C-contiguous"),
        (torch_there(np.zeros((5, 16), np.float32)).requires_grad_(), tl.ConfigError, "gradient"),
        (torch_there(np.zeros((16, 5), np.float32)), tl.ShapeError, r"shape \(5, 16\), got"),
        (torch_there(np.zeros((5, 16))), tl.DTypeError, "out expected float32, got float64"),
        (
            torch_there(np.zeros(81, np.float32))[1:].view(5, 16),
            tl.ShapeError,
            "multiple of 16 bytes",
        ),
    ],
)
@pytest.mark.parametrize("calls", [1, 2])
def test_out_that_cannot_be_written_is_refused(
    make: Any, out: Any, error: type[Exception], message: str, calls: int
) -> None:
    x = make(X)
    for _ in range(calls - 1):
        square()(there(X), out=fresh(5, 16))
    with pytest.raises(error, match=message):
        square()(x, out=out)


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("make", [there, torch_there])
def test_out_that_is_an_input_or_overlaps_one_is_refused(make: Any, calls: int) -> None:
    x = make(X)
    for _ in range(calls - 1):
        square()(there(X), out=fresh(5, 16))
    with pytest.raises(tl.ConfigError, match="out overlaps an input"):
        square()(x, out=x)
    if make is torch_there:
        room = torch_there(normal(9, 16))
        with pytest.raises(tl.ConfigError, match="out overlaps an input"):
            square()(room[:5], out=room[4:])
        square()(room[:4], out=room[4:8])


def test_outputs_that_overlap_each_other_are_refused() -> None:
    x = tl.Input((16,))
    model = emulated(tl.Model([x], [tl.Dense(4)(x), tl.Dense(4)(x)]))
    out = fresh(5, 4)
    with pytest.raises(tl.ConfigError, match="another output"):
        model(there(X), out=[out, out])


def test_out_on_another_gpu_is_refused() -> None:
    out = fresh(5, 16)
    out.ordinal = 1
    try:
        with pytest.raises(tl.DeviceError, match="out is on GPU 1 and the inputs are on GPU 0"):
            square()(there(X), out=out)
    finally:
        out.ordinal = 0


@pytest.mark.parametrize("make_out", [there, torch_there])
def test_out_on_a_gpu_for_inputs_of_the_host_is_refused(make_out: Any) -> None:
    with pytest.raises(tl.DeviceError, match="out is on a GPU and the inputs are on the host"):
        square()(X, out=make_out(X))


def test_out_on_the_host_takes_results_of_the_host() -> None:
    out = np.zeros((5, 16), np.float32)
    assert square()(X, out=out) is out
    np.testing.assert_array_equal(out, square()(X))
    with pytest.raises(tl.DTypeError, match="got int"):
        square()(X, out=3)


def test_an_input_that_is_widened_may_be_overwritten() -> None:
    model = emulated(tl.Embedding(10, 1, input_length=2))
    ids = np.array([[1, 2], [3, 4]], np.int16)
    room = torch_there(np.zeros(16, np.float32))
    room.view(torch.int16)[:4] = torch.from_numpy(ids.ravel())
    small = room.view(torch.int16)[:4].view(2, 2)
    assert address(np.asarray(room.detach().as_subclass(torch.Tensor))) % 16 == 0
    out = room[:4].view(2, 2, 1)
    model(small, out=out)
    np.testing.assert_array_equal(out.numpy(), model(ids))


def test_inputs_elsewhere_are_refused_in_the_words_of_a_gpu() -> None:
    with pytest.raises(tl.DeviceError, match=r"input 'input' is on device 'meta'.* NVIDIA GPUs"):
        square()(torch.zeros(5, 16, device="meta"))


@pytest.mark.parametrize("calls", [1, 2])
def test_memory_that_torch_has_not_is_an_error_of_ours(
    calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", full)
    model, given = emulated(tl.Dense(16, input_dim=16)), torch_there(X)
    for _ in range(calls - 1):  # then the short way is known
        model(given, out=torch_there(np.zeros((5, 16), np.float32)))
    memory = r"too little memory left for a tensor .* out of memory"
    with pytest.raises(tl.DeviceMemoryError, match=memory):
        model(given)
    monkeypatch.setattr(CudaTensor, "contiguous", full)
    with pytest.raises(tl.DeviceMemoryError, match=memory):
        model(torch_there(X.T).T)
