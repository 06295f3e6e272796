"""Weights that are hard to keep in fewer bits."""

from __future__ import annotations

import numpy as np
import pytest

ROWS, WIDTH = 61, 17


@pytest.fixture(scope="session")
def table() -> np.ndarray:
    """(61, 17) float32: normal rows, and one each of zeros, of one number, with an outlier, of
    denormals whose step is denormal too, and of two neighbours."""
    made = np.random.default_rng(5).standard_normal((ROWS, WIDTH)).astype(np.float32)
    made[7] = 0
    made[11] = -3.25
    made[13, 4] = 1e4
    made[17] = np.arange(WIDTH) * np.float32(3e-45)
    made[19] = 1
    made[19, 3] = np.nextafter(np.float32(1), np.float32(2))
    return made
