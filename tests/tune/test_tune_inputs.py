from __future__ import annotations

import numpy as np
import pytest

from tvmlayers.errors import ConfigError, UnknownNameError
from tvmlayers.tune import inputs
from tvmlayers.tune.cases import parse
from tvmlayers.tune.data import Data


@pytest.mark.parametrize("rows", [1, 2, 7, 5000, 999983, 10_000_000])
@pytest.mark.parametrize("distribution", ["uniform", "zipf"])
def test_indices_are_those_of_the_table(rows: int, distribution: str) -> None:
    drawn = inputs.draw_indices(rows, 10_000, distribution, np.random.default_rng(0))
    assert drawn.dtype == np.int32
    assert drawn.min() >= 0
    assert drawn.max() < rows


def test_zipf_has_favourites_that_are_spread_over_the_table() -> None:
    drawn = inputs.draw_indices(100_000, 50_000, "zipf", np.random.default_rng(0))
    rows, counts = np.unique(drawn, return_counts=True)
    hot = rows[np.argsort(counts)[-20:]]
    assert counts.max() > 1000
    assert np.ptp(hot) > 50_000


@pytest.mark.parametrize("text", ["1000x8x16x10", "1000x8x16x0..60", "1000x8x1x7"])
def test_bags_share_all_indices_out(text: str) -> None:
    case = parse("bag", text)
    for indices, offsets in inputs.draw(case.workload, case.data, 0):
        assert len(indices) == case.workload.batch
        assert offsets[0] == 0
        assert (np.diff(offsets) >= 0).all()
        assert offsets[-1] <= len(indices)
        assert len(offsets) == int(text.split("x")[2])


def test_one_seed_gives_one_input_and_the_sets_differ() -> None:
    case = parse("embedding", "5000x64x320")
    first, again = (inputs.draw(case.workload, case.data, 7) for _ in range(2))
    assert len(first) == inputs.INDEX_SETS
    np.testing.assert_array_equal(first[3][0], again[3][0])
    assert (first[0][0] != first[1][0]).any()


def test_cold_data_is_more_than_a_cache_holds() -> None:
    case = parse("dense", "512x1024x64", Data(cold=True))
    drawn = inputs.draw(case.workload, case.data, 0)
    assert len(drawn) * drawn[0][0].nbytes >= inputs.COLD_BYTES // 4


def test_data_is_read_from_a_mapping_and_checked() -> None:
    assert Data.of({"distribution": "zipf", "length": 20}) == Data("zipf", (20, 20))
    assert Data.of({"length": "0..60"}).lengths == (0, 60)
    assert Data("zipf", (5, 5)).describe("dense") == {"cold": False}
    for kind in ("dense", "embedding", "bag"):
        data = Data("zipf", (5, 9), cold=True)
        assert Data.of(data.describe(kind)).describe(kind) == data.describe(kind)
    for wrong in ({"length": 0}, {"length": "9..3"}, {"length": "x"}, {"cold": 1}, {"other": 1}, 3):
        with pytest.raises(ConfigError):
            Data.of(wrong)
    with pytest.raises(UnknownNameError, match="Did you mean 'zipf'"):
        Data.of({"distribution": "zip"})
