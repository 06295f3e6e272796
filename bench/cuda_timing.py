"""Times of calls on a GPU: of a call as it is made, and of the kernels in it alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bench.timing import Times

ROUNDS, CALLS, WARM = 21, 20, 3
PROFILED = 20  # calls whose kernels are added up

Ways = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class GpuTimes(Times):
    """Seconds of a call by the device's events; device: of its kernels, None where not known."""

    device: float | None = None


def measure(ways: Ways, device: str = "cuda") -> dict[str, GpuTimes]:
    """The times of each way, over rounds in which all take their turn."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for call in ways.values():
        for _ in range(WARM):
            call()
    for _ in range(ROUNDS):
        for name, call in ways.items():
            found[name].append(_block(call, device) / CALLS)
    return {
        name: GpuTimes(found[name], found[name], device_seconds(call, device))
        for name, call in ways.items()
    }


def device_seconds(call: Callable[[], Any], device: str = "cuda") -> float | None:
    """Seconds of the kernels and copies of one call, by torch's profiler; None without any."""
    if device != "cuda":
        return None
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(PROFILED):
            call()
        torch.cuda.synchronize()
    total = kernel_microseconds(profiler.events() or ())
    return total * 1e-6 / PROFILED if total else None


def kernel_microseconds(events: Iterable[Any]) -> float:
    """What the events on the device took together; ranges that only name others do not count."""
    import torch

    on_device = [each for each in events if each.device_type == torch.autograd.DeviceType.CUDA]
    return float(
        sum(each.time_range.elapsed_us() for each in on_device if not each.is_user_annotation)
    )


def _block(call: Callable[[], Any], device: str) -> float:
    """Seconds of CALLS calls."""
    if device != "cuda":
        begun = time.perf_counter()
        for _ in range(CALLS):
            call()
        return time.perf_counter() - begun
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(CALLS):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3
