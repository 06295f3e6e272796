"""The one list of cases: what the benchmark times, the tests check.

A case is a frozen record of sizes. Its `spec` is the string that the command line takes for it,
which `bench.specs` reads back. The public cases are data, in `cases.json` beside this file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

KINDS = ("dense", "embedding", "bag", "model")
DISTRIBUTIONS = ("uniform", "zipf")
MODES = ("sum", "mean", "max", "min")
ODD_SIZES = (1, 3, 17, 31, 333)


class CaseError(ValueError):
    """A case string, or a name in one, that the benchmark does not know."""


@dataclass(frozen=True)
class DenseCase:
    """x: (m, k) times a kernel: (k, n), plus a bias, through an activation (None is linear)."""

    m: int
    k: int
    n: int
    activation: str | None = None
    name: str = ""

    kind = "dense"

    @property
    def spec(self) -> str:
        return f"{self.m}x{self.k}x{self.n}:{self.activation or 'linear'}"

    @property
    def flops(self) -> int:
        return 2 * self.m * self.k * self.n


@dataclass(frozen=True)
class EmbeddingCase:
    """`indices` rows looked up in a table: (rows, dim)."""

    rows: int
    dim: int
    indices: int
    distribution: str = "uniform"
    name: str = ""

    kind = "embedding"

    @property
    def spec(self) -> str:
        return f"{self.rows}x{self.dim}x{self.indices}:{self.distribution}"

    @property
    def lookups(self) -> int:
        return self.indices


@dataclass(frozen=True)
class BagCase:
    """`bags` rows, each reduced from `shortest`..`longest` rows of a table: (rows, dim).

    Bags of one length are 2-D indices: (bags, length); ragged ones are 1-D indices with offsets.
    """

    rows: int
    dim: int
    bags: int
    shortest: int
    longest: int
    mode: str = "mean"
    distribution: str = "uniform"
    name: str = ""

    kind = "bag"

    @property
    def ragged(self) -> bool:
        return self.shortest != self.longest

    @property
    def spec(self) -> str:
        length = f"{self.shortest}..{self.longest}" if self.ragged else str(self.longest)
        return f"{self.rows}x{self.dim}x{self.bags}x{length}:{self.mode}:{self.distribution}"

    @property
    def lookups(self) -> int:
        """The rows read, on average where bags are ragged."""
        return self.bags * (self.shortest + self.longest) // 2


@dataclass(frozen=True)
class ModelCase:
    """The model called `name` (see bench/models.py) on a batch of samples."""

    name: str
    batch: int

    kind = "model"

    @property
    def spec(self) -> str:
        return f"{self.name}@{self.batch}"


Case = DenseCase | EmbeddingCase | BagCase | ModelCase


def public(kind: str) -> list[Case]:
    """The public cases of a kind, in the order of cases.json."""
    return [case for row in _table()[checked_kind(kind)] for case in _EXPAND[kind](row)]


def on_gpu(kind: str) -> list[Case]:
    """The public cases of a kind for GPUs: of dense layers there are more than for CPUs."""
    more = _table().get(f"{kind} on a GPU", [])
    return public(kind) + [case for row in more for case in _EXPAND[kind](row)]


def _table() -> dict[str, list[dict[str, Any]]]:
    text = Path(__file__).with_name("cases.json").read_text(encoding="utf-8")
    table: dict[str, list[dict[str, Any]]] = json.loads(text)
    return table


def models(name: str, batches: list[int] | None = None) -> list[ModelCase]:
    """The cases of one public model (`two tower`, `two-tower`), at its batches or at these."""
    key = name.strip().replace("-", " ").replace("_", " ").lower()
    known = [case for case in public("model") if isinstance(case, ModelCase)]
    found = [case for case in known if case.name == key]
    if not found:
        names = ", ".join(sorted({case.name for case in known}))
        raise CaseError(f"no model is called {name!r}; known are {names}")
    if batches is None:
        return found
    if any(batch < 1 for batch in batches):
        raise CaseError(f"a batch is at least 1, got {batches}")
    return [ModelCase(key, batch) for batch in batches]


def odd(kind: str) -> list[Case]:
    """Small cases of odd sizes, for the tests: no size is a multiple of a vector's lanes."""
    sizes = ODD_SIZES
    if checked_kind(kind) == "dense":
        return [DenseCase(m, k, n, name="odd") for m, k, n in product(sizes, sizes, sizes)]
    if kind == "embedding":
        return [
            EmbeddingCase(r, d, i, name="odd") for r, d, i in product(sizes, sizes, (1, 17, 31))
        ]
    if kind == "bag":
        bag = BagCase(1, 1, 1, 0, 31, name="odd")
        lengths = ((0, 31), (1, 1), (3, 3), (17, 17))
        return [
            replace(bag, rows=r, dim=d, bags=b, shortest=low, longest=high, mode=mode)
            for (r, d), b, (low, high), mode in product(
                zip(reversed(sizes), sizes, strict=True), (1, 17), lengths, MODES
            )
        ]
    return [ModelCase(case.name, 3) for case in public("model") if isinstance(case, ModelCase)]


def checked_kind(kind: str) -> str:
    """The kind itself; CaseError unless it is one of KINDS."""
    if kind not in KINDS:
        raise CaseError(f"a kind of case is one of {', '.join(KINDS)}, got {kind!r}")
    return kind


def _expand_dense(row: dict[str, Any]) -> Iterator[Case]:
    for m in row["m"]:
        yield DenseCase(m, row["k"], row["n"], row["activation"], row["name"])


def _expand_embedding(row: dict[str, Any]) -> Iterator[Case]:
    for indices, dist in product(row["indices"], row.get("distributions", ["uniform"])):
        yield EmbeddingCase(row["rows"], row["dim"], indices, dist, row["name"])


def _expand_bag(row: dict[str, Any]) -> Iterator[Case]:
    low, _, high = str(row["length"]).partition("..")
    for bags, dist in product(row["bags"], row.get("distributions", ["uniform"])):
        yield BagCase(
            row["rows"],
            row["dim"],
            bags,
            int(low),
            int(high or low),
            row["mode"],
            dist,
            row["name"],
        )


def _expand_model(row: dict[str, Any]) -> Iterator[Case]:
    for batch in row["batches"]:
        yield ModelCase(row["name"], batch)


_EXPAND: dict[str, Callable[[dict[str, Any]], Iterator[Case]]] = {
    "dense": _expand_dense,
    "embedding": _expand_embedding,
    "bag": _expand_bag,
    "model": _expand_model,
}
