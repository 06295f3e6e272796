"""The hand-written models, for tests of what calls compiled code."""

from __future__ import annotations

import handmade
import pytest

from tvmlayers.runtime import Compiled


@pytest.fixture(scope="session")
def embedding() -> Compiled:
    """ids (n, 10) -> rows (n, 10, 4) of a table of 5 rows; out-of-range indices raise."""
    return handmade.make(handmade.embedding_manifest())


@pytest.fixture(scope="session")
def bag() -> Compiled:
    """indices (n1,), offsets (n,) -> sums (n, 4)."""
    return handmade.make(handmade.bag_manifest())


@pytest.fixture(scope="session")
def scale() -> Compiled:
    """x (n, 3) float32 -> [2 * x, x[:, 0]]."""
    return handmade.make(handmade.scale_manifest())


@pytest.fixture(scope="session")
def spread() -> Compiled:
    """x (n, 3) float32 -> x * threads, in parallel."""
    return handmade.make(handmade.spread_manifest(), threads=2)
