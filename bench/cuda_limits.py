"""What the GPU here can do, measured in the run: a copy in its memory, and a large product."""

from __future__ import annotations

from functools import cache
from typing import Any

from bench.cuda_timing import measure
from bench.limits import Limit

COPIED = 1 << 30  # bytes, far more than any cache holds
PRODUCT = 8192  # rows, columns and steps of k


class GpuLimits:
    """Measured when asked, each once. copied, product: sizes, smaller ones for the tests."""

    def __init__(self, device: str = "cuda", copied: int = COPIED, product: int = PRODUCT) -> None:
        self._device, self._copied, self._product = device, copied, product
        self.bandwidth = cache(self._bandwidth)
        self.matmul = cache(self._matmul)
        self._dtypes: list[str] = []

    def of(self, moved: int, flops: int, dtype: str) -> Limit:
        """The least seconds of a call that moves these bytes and does these operations."""
        memory = Limit(moved / self.bandwidth(), "bandwidth of a copy")
        if not flops:
            return memory
        return max(memory, Limit(flops / self.matmul(dtype), "torch.matmul"), key=_seconds)

    def summary(self) -> dict[str, float]:
        """What was measured so far."""
        rates = {f"matmul {dtype} TFLOP/s": self.matmul(dtype) / 1e12 for dtype in self._dtypes}
        return {"copy GB/s": self.bandwidth() / 1e9, **rates}

    def _bandwidth(self) -> float:
        """Bytes a second that the memory moves in a copy, read and written."""
        import torch

        source = torch.empty(self._copied, dtype=torch.uint8, device=self._device)
        target = torch.empty_like(source)
        return 2 * self._copied / _fastest(lambda: target.copy_(source), self._device)

    def _matmul(self, dtype: str) -> float:
        """FLOP/s of torch's product of two large matrices of this dtype."""
        import torch

        self._dtypes.append(dtype)
        n = self._product
        a, b = (torch.randn(n, n, device=self._device).to(getattr(torch, dtype)) for _ in range(2))
        return 2 * n**3 / _fastest(lambda: a @ b, self._device)


def _fastest(call: Any, device: str) -> float:
    return min(measure({"": call}, device)[""].rounds)


def _seconds(limit: Limit) -> float:
    return limit.seconds
