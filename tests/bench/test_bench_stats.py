"""The statistics of the benchmark, and the choice of what it runs on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench import stats, work
from bench.specs import parse


def test_geometric_mean_of_a_ratio_and_its_inverse_is_one() -> None:
    assert stats.geometric_mean([4.0, 0.25]) == pytest.approx(1.0)


def test_geometric_mean_refuses_zero() -> None:
    with pytest.raises(ValueError, match="positive"):
        stats.geometric_mean([1.0, 0.0])


def test_statistics_of_nothing_are_refused() -> None:
    for statistic in (stats.median, stats.geometric_mean, lambda v: stats.percentile(v, 99)):
        with pytest.raises(ValueError, match="no values"):
            statistic([])


def test_percentile_reaches_the_slowest() -> None:
    values = [*range(100), 1000.0]
    assert stats.percentile(values, 100) == 1000.0
    assert stats.percentile(values, 50) == stats.median(values) == 50.0


def test_round_ratios_are_peer_over_ours() -> None:
    assert stats.round_ratios([1.0, 2.0], [3.0, 3.0]) == [3.0, 1.5]
    with pytest.raises(ValueError, match="same rounds"):
        stats.round_ratios([1.0], [])


def test_ratio_by_rounds_outlives_drift() -> None:
    # The machine slows down tenfold midway; the peer stays twice as slow as we are.
    ours = [1.0] * 5 + [10.0] * 5
    ratios = stats.round_ratios(ours, [2 * seconds for seconds in ours])
    assert stats.median(ratios) == 2.0


@pytest.mark.parametrize("distribution", ["uniform", "zipf"])
def test_draws_stay_inside_the_table(distribution: str) -> None:
    rng = np.random.default_rng(0)
    for rows in (1, 3, 17, 1000):
        drawn = work.draw(rows, 5000, distribution, rng)
        assert drawn.min() >= 0
        assert drawn.max() < rows


def test_zipf_repeats_a_few_rows_and_spreads_them() -> None:
    drawn = work.draw(10_000, 20_000, "zipf", np.random.default_rng(0))
    rows, counts = np.unique(drawn, return_counts=True)
    assert counts.max() > 20 * np.median(counts)
    popular = rows[np.argsort(counts)[-100:]]
    assert popular.std() > 1000


def test_rotation_overflows_the_caches() -> None:
    case = parse("embedding", "1000x64x100")
    made = work.make(case, "rotated", "float32", "int64", cache_bytes=1 << 18)
    assert isinstance(made, work.EmbeddingWork)
    assert len(made.indices) == math.ceil(4 * (1 << 18) / (100 * 64 * 4))
    assert len({ids.tobytes() for ids in made.indices}) == len(made.indices)


def test_ragged_offsets_end_with_the_indices() -> None:
    made = work.make(parse("bag", "100x8x50x0..7:sum"), "repeated", "float32", "int32", 1)
    assert isinstance(made, work.BagWork)
    (indices,), (offsets,) = made.indices, made.offsets
    assert indices.dtype == offsets.dtype == np.int32
    assert offsets[0] == 0
    assert (np.diff(offsets) >= 0).all()
    assert (np.diff(offsets) <= 7).all()
    assert 0 <= len(indices) - offsets[-1] <= 7
