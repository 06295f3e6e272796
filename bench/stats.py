"""The statistics that the benchmark reports, over plain sequences of seconds or ratios."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def median(values: Sequence[float]) -> float:
    return float(np.median(_some(values)))


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed, between neighbours by line."""
    return float(np.percentile(_some(values), percent))


def geometric_mean(values: Sequence[float]) -> float:
    """The n-th root of the product; ValueError where a value is not positive."""
    array = np.asarray(_some(values), dtype=np.float64)
    if not (array > 0).all():
        raise ValueError(f"a geometric mean needs positive values, got {array.min()}")
    return float(np.exp(np.log(array).mean()))


def round_ratios(ours: Sequence[float], peer: Sequence[float]) -> list[float]:
    """Peer's time over ours, round by round: above 1 where we are faster."""
    if len(ours) != len(peer):
        raise ValueError(f"both sides need the same rounds, got {len(ours)} and {len(peer)}")
    return [theirs / own for own, theirs in zip(ours, peer, strict=True)]


def _some(values: Sequence[float]) -> Sequence[float]:
    if len(values) == 0:
        raise ValueError("statistics of no values at all")
    return values
