"""The models, batches and optimisers whose steps are timed, and their data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SETS = 8  # batches in turn
BAG, ZIPF = 50, 1.05
TABLES, ROWS, WIDTH, PER_TABLE = 8, 100_000, 64, 20
BOTTOM, TOP = (512, 256, 64), (512, 256)


@dataclass(frozen=True)
class TrainCase:
    """model: "seed" (5,000 x 64, ten ids, 128, ten classes), "text" (20,000 x 64, means of 50 ids,
    four classes) or "dlrm" (8 tables of 100,000 x 64, sums of 20 ids); optimizer: of the tables,
    for text and dlrm, whose other weights follow SGD."""

    model: str
    batch: int
    optimizer: str

    @property
    def name(self) -> str:
        return f"{self.model}@{self.batch}:{self.optimizer}"

    @property
    def rate(self) -> float:
        return 1e-3 if self.model == "seed" else 1e-2

    def data(self) -> list[tuple[tuple[Array, ...], Array]]:
        """(inputs, y) for each set."""
        rng = np.random.default_rng(0)
        return [_DATA[self.model](rng, self.batch) for _ in range(SETS)]


CASES = tuple(
    TrainCase(model, batch, optimizer)
    for model, batches, optimizers in (
        ("seed", (32, 256), ("sgd", "adam")),
        ("text", (64, 512), ("sgd", "adagrad")),
        ("dlrm", (128, 2048), ("rowwise_adagrad",)),
        ("dlrm", (2048,), ("sgd",)),
    )
    for batch in batches
    for optimizer in optimizers
)


def parse(text: str) -> TrainCase:
    """The case of a name such as "seed@32:sgd"; ValueError for what is none."""
    model, _, rest = text.partition("@")
    batch, _, optimizer = rest.partition(":")
    if model not in _DATA or not batch.isdecimal() or optimizer not in OPTIMIZERS:
        raise ValueError(f"a case is model@batch:optimizer, such as seed@32:sgd, got {text!r}")
    return TrainCase(model, int(batch), optimizer)


OPTIMIZERS = ("sgd", "adam", "adagrad", "rowwise_adagrad")


def _seed(rng: np.random.Generator, batch: int) -> tuple[tuple[Array, ...], Array]:
    return (rng.integers(0, 5000, (batch, 10)),), rng.integers(0, 10, batch)


def _text(rng: np.random.Generator, batch: int) -> tuple[tuple[Array, ...], Array]:
    shares = np.arange(1, 20_001, dtype=np.float64) ** -ZIPF
    places = np.random.default_rng(7).permutation(20_000)
    ids = np.searchsorted(np.cumsum(shares) / shares.sum(), rng.random((batch, BAG)))
    return (places[np.minimum(ids, 19_999)],), rng.integers(0, 4, batch)


def _dlrm(rng: np.random.Generator, batch: int) -> tuple[tuple[Array, ...], Array]:
    numbers = rng.standard_normal((batch, 13)).astype(np.float32)
    ids = [rng.integers(0, ROWS, (batch, PER_TABLE)) for _ in range(TABLES)]
    return (numbers, *ids), rng.integers(0, 2, (batch, 1)).astype(np.float32)


_DATA: dict[str, Callable[[np.random.Generator, int], tuple[tuple[Array, ...], Array]]] = {
    "seed": _seed,
    "text": _text,
    "dlrm": _dlrm,
}
