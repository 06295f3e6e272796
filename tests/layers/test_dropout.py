from __future__ import annotations

from typing import Any

import pytest

import tvmlayers as tl


@pytest.mark.parametrize("rate", [0, 0.5, 1])
def test_shape_is_kept(rate: float) -> None:
    assert tl.Dropout(rate)(tl.Input((3, None))).shape == (None, 3, None)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), "0.5", None, True])
def test_rates_outside_0_to_1_are_refused(rate: Any) -> None:
    with pytest.raises(tl.ConfigError, match="rate"):
        tl.Dropout(rate)
