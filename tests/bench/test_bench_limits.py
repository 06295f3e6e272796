"""What no case can do without is read from the memory that the case itself reads."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from bench import ours, specs, work
from bench.limits import Limits
from bench.settings import Settings
from tvmlayers.targets import native


def given(kind: str, spec: str) -> tuple[work.Work, ours.Prepared]:
    made = work.make(specs.parse(kind, spec), "repeated", "float32", "int64", 1 << 20)
    return made, ours.prepare(made, Settings("native", 1))


@pytest.mark.parametrize(
    ("kind", "spec"),
    [("embedding", "500x64x100"), ("bag", "500x64x7x20:sum"), ("bag", "500x64x7x0..30:sum")],
)
def test_a_lookup_is_timed_beside_the_gathers_of_its_own_table(kind: str, spec: str) -> None:
    lookup, own = given(kind, spec)
    limits = Limits(1)
    (gather,) = limits.beside(lookup, own.weights())
    assert gather.name == "gather"
    sums = gather.calls[0].args[2]
    gather.calls[0]()
    table = own.weights()[0]
    assert isinstance(lookup, work.EmbeddingWork | work.BagWork)
    sets = lookup.flat if isinstance(lookup, work.BagWork) else lookup.indices
    read = table[sets[0]].astype(np.float64).sum()
    np.testing.assert_allclose(np.from_dlpack(sums).sum(), read, rtol=1e-3, atol=1e-3)
    assert limits.of(lookup, 1.0).name == "gather"
    assert limits.of(lookup, 1.0).seconds == 1.0


def test_a_weight_that_no_cache_holds_is_read_beside_its_layer() -> None:
    units = 3 * native().l2 // 4096
    layer, own = given("dense", f"1x1024x{units}")
    limits = Limits(1)
    (read,) = limits.beside(layer, own.weights())
    assert read.name == "read"
    read.calls[0]()
    assert limits.of(layer, 0.5).seconds == 0.5


@pytest.mark.parametrize("spec", ["1x64x64", "512x1024x2048"])
def test_small_weights_and_much_arithmetic_have_nothing_beside_them(spec: str) -> None:
    layer, own = given("dense", spec)
    assert Limits(1).beside(layer, own.weights()) == []
