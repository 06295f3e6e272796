"""On an NVIDIA GPU: torch's tensors, streams, and every kind of kernel.

Skipped without one, unless TVMLAYERS_TEST_DEVICE says "cuda": then they fail.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "parity"))

from agreement import DEVICE, Twin, indices, normal
from samples import every_input, every_kernel

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.dtypes import FLOAT_DTYPES
from tvmlayers.errors import TvmLayersError
from tvmlayers.runtime.cuda import DeviceArray, to_device

torch = import_module("torch") if DEVICE == "cuda" else pytest.importorskip("torch")


def missing() -> str:
    """Why these tests cannot run here; empty where they can."""
    try:
        targets.resolve("cuda")
    except TvmLayersError as error:
        return str(error)
    return "" if torch.cuda.is_available() else "this build of torch has no CUDA"


REASON = "" if DEVICE == "cuda" else missing()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(REASON), reason=REASON)]


@cache
def words() -> Any:
    model = tl.Sequential([tl.Embedding(50, 8, input_length=4), tl.Flatten(), tl.Dense(6)])
    return tl.compile(model, target="cuda")


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_every_kind_of_kernel_agrees_for_every_batch(dtype: str) -> None:
    twin = Twin(every_kernel(dtype), target="cuda")
    for batch in (0, 1, 2, 3, 16, 17, 33, 130, 1000):
        twin.agrees(*every_input(batch, dtype))


def test_torch_tensors_stay_on_the_gpu() -> None:
    ids = indices(50, 7, 4)
    result = words()(torch.from_numpy(ids).cuda())
    assert result.is_cuda
    np.testing.assert_array_equal(result.cpu().numpy(), words()(ids))


def test_out_is_written_where_it_lies_or_refused() -> None:
    ids = torch.from_numpy(indices(50, 7, 4)).cuda()
    wanted = words()(ids)
    out = torch.zeros((7, 6), device="cuda")
    assert words()(ids, out=out) is out
    assert torch.equal(out, wanted)
    for refused, said in (
        (torch.zeros((6, 7), device="cuda").T, "C-contiguous"),
        (torch.zeros((7, 6), device="cuda", requires_grad=True), "gradient"),
        (torch.zeros((7, 6)), "on the host"),
    ):
        with pytest.raises(TvmLayersError, match=said):
            words()(ids, out=refused)


def test_calls_go_on_the_current_stream() -> None:
    ids = indices(50, 7, 4)
    wanted = words()(ids)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.zeros((7, 4), dtype=torch.int64, device="cuda")
        torch.cuda._sleep(100_000_000)
        late.copy_(torch.from_numpy(ids))
        result = words()(late)
    stream.synchronize()
    np.testing.assert_array_equal(result.cpu().numpy(), wanted)


def test_arrays_of_ours_are_read_by_torch_after_what_fills_them() -> None:
    """The reader's stream waits: the call's one is busy for long."""
    layer, x = tl.compile(tl.Dense(6, input_dim=4), target="cuda"), normal(7, 4)
    wanted, given = layer(x), to_device(x)
    torch.cuda.synchronize()
    filling, reading = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(filling):
        torch.cuda._sleep(100_000_000)
        lent = layer(given)
    assert isinstance(lent, DeviceArray)
    with torch.cuda.stream(reading):
        read = torch.from_dlpack(lent).clone()
    reading.synchronize()
    assert read.is_cuda
    np.testing.assert_array_equal(read.cpu().numpy(), wanted)


def test_slices_and_small_integers_are_taken() -> None:
    ids = torch.from_numpy(indices(50, 9, 8)).cuda()
    wanted = words()(ids[:, ::2].contiguous())
    assert torch.equal(words()(ids[:, ::2]), wanted)
    assert torch.equal(words()(ids[:, ::2].to(torch.uint8)), wanted)


def test_an_index_out_of_range_raises_and_the_context_lives_on() -> None:
    ids = torch.from_numpy(indices(50, 9, 4)).cuda()
    wrong = ids.clone()
    wrong[5, 2] = 50
    with pytest.raises(tl.IndexOutOfRangeError, match=r"\(5, 2\)"):
        words()(wrong)
    assert torch.isfinite(words()(ids)).all()
