"""What no case can do without is read from the memory that the case itself reads.

Nothing is measured here: rates and times are given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from bench import ours, specs, work
from bench.limits import Limits
from bench.settings import Settings
from tvmlayers.targets import KiB
from tvmlayers.tune import limits as machine_limits

L2 = 64 * KiB
READ, TRIAD = 1e11, 2e11


class Known(Limits):
    """The limits of a machine whose rates are known."""

    def __init__(self, flops: float) -> None:
        super().__init__(threads=1)
        self.machine = replace(self.machine, l2=L2)
        self._flops = flops

    def fma(self, dtype: str) -> float:
        return self._flops

    def read(self, size: int) -> float:
        return READ

    def triad(self, size: int) -> float:
        return TRIAD


@pytest.fixture(autouse=True)
def nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several ways to read, the first takes least."""
    turns = iter(range(1, 100))

    def seconds(run: Callable[[], Any]) -> float:
        run()
        return float(next(turns))

    monkeypatch.setattr(machine_limits, "best_seconds", seconds)
    monkeypatch.setattr(machine_limits, "TRY_BYTES", 0)
    monkeypatch.setattr("bench.limits.TRY_BYTES", 0)


def given(kind: str, spec: str) -> tuple[work.Work, ours.Prepared]:
    made = work.make(specs.parse(kind, spec), "repeated", "float32", "int64", 1 << 20)
    return made, ours.prepare(made, Settings("native", 1))


@pytest.mark.parametrize(
    ("kind", "spec"),
    [("embedding", "500x64x100"), ("bag", "500x64x7x20:sum"), ("bag", "500x64x7x0..30:sum")],
)
def test_a_lookup_is_timed_beside_the_gathers_of_its_own_table(kind: str, spec: str) -> None:
    lookup, own = given(kind, spec)
    limits = Known(flops=1e12)
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
    stream = limits.of(lookup, 0.0)
    assert stream.name == ("read" if kind == "bag" else "triad")
    assert 0 < stream.seconds < 1


def test_a_weight_that_no_cache_holds_is_read_beside_its_layer() -> None:
    units = 3 * L2 // (128 * 4)
    layer, own = given("dense", f"1x128x{units}")
    limits = Known(flops=1e12)
    assert limits.of(layer).name == "read"
    assert limits.of(layer).seconds == pytest.approx(3 * L2 / READ, rel=0.02)
    (read,) = limits.beside(layer, own.weights())
    assert read.name == "read"
    read.calls[0]()
    assert limits.of(layer, 0.5).seconds == 0.5


@pytest.mark.parametrize(
    ("spec", "flops", "name"),
    [("1x64x64", 1e12, "read"), ("64x128x512", 1e12, "FMA"), ("1x128x512", 1e10, "FMA")],
)
def test_small_weights_and_much_arithmetic_have_nothing_beside_them(
    spec: str, flops: float, name: str
) -> None:
    layer, own = given("dense", spec)
    limits = Known(flops)
    assert limits.of(layer).name == name
    assert limits.beside(layer, own.weights()) == []
