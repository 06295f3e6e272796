"""The strings that the command line takes for cases, `7x333x129:tanh`, read into cases."""

from __future__ import annotations

import re
from collections.abc import Callable

from bench.cases import (
    DISTRIBUTIONS,
    MODES,
    BagCase,
    Case,
    CaseError,
    DenseCase,
    EmbeddingCase,
    checked_kind,
    models,
)


def parse(kind: str, spec: str) -> Case:
    """The case that a command-line string describes; CaseError says what form was expected."""
    form, reader, make = _FORMS[checked_kind(kind)]
    found = reader.fullmatch(spec.strip())
    if found is None:
        raise CaseError(f"a {kind} case looks like {form}, got {spec!r}")
    return make({key: value for key, value in found.groupdict().items() if value is not None})


def form(kind: str) -> str:
    """What a case string of this kind looks like, for messages."""
    return _FORMS[checked_kind(kind)][0]


def _sizes(found: dict[str, str], *names: str) -> list[int]:
    sizes = [int(found[name]) for name in names]
    if min(sizes) < 1:
        got = ", ".join(f"{name}={size}" for name, size in zip(names, sizes, strict=True))
        raise CaseError(f"sizes are at least 1, got {got}")
    return sizes


def _dense(f: dict[str, str]) -> DenseCase:
    activation = f.get("activation", "linear")
    m, k, n = _sizes(f, "m", "k", "n")
    return DenseCase(m, k, n, None if activation in ("linear", "none") else activation)


def _embedding(f: dict[str, str]) -> EmbeddingCase:
    rows, dim, indices = _sizes(f, "rows", "dim", "indices")
    return EmbeddingCase(rows, dim, indices, f.get("distribution", "uniform"))


def _bag(f: dict[str, str]) -> BagCase:
    rows, dim, bags = _sizes(f, "rows", "dim", "bags")
    shortest = int(f["shortest"])
    longest = int(f.get("longest", shortest))
    if not 0 <= shortest <= longest or longest == 0:
        raise CaseError(f"a bag's length is LOW..HIGH with 0 <= LOW <= HIGH, got {f}")
    return BagCase(
        rows,
        dim,
        bags,
        shortest,
        longest,
        mode=f.get("mode", "mean"),
        distribution=f.get("distribution", "uniform"),
    )


def _model(f: dict[str, str]) -> Case:
    return models(f["name"], [int(f["batch"])])[0]


_DIST = "(?P<distribution>" + "|".join(DISTRIBUTIONS) + ")"
_FORMS: dict[str, tuple[str, re.Pattern[str], Callable[[dict[str, str]], Case]]] = {
    "dense": (
        "MxKxN:activation, as 7x333x129:tanh",
        re.compile(r"(?P<m>\d+)x(?P<k>\d+)x(?P<n>\d+)(:(?P<activation>[a-z_0-9]+))?"),
        _dense,
    ),
    "embedding": (
        f"ROWSxDIMxINDICES:distribution ({'|'.join(DISTRIBUTIONS)}), as 1000000x64x4096:zipf",
        re.compile(rf"(?P<rows>\d+)x(?P<dim>\d+)x(?P<indices>\d+)(:{_DIST})?"),
        _embedding,
    ),
    "bag": (
        f"ROWSxDIMxBAGSxLENGTH:mode:distribution (mode {'|'.join(MODES)}; LENGTH may be 0..60), "
        "as 1000000x64x2048x100:sum:zipf",
        re.compile(
            r"(?P<rows>\d+)x(?P<dim>\d+)x(?P<bags>\d+)x(?P<shortest>\d+)(\.\.(?P<longest>\d+))?"
            rf"(:(?P<mode>{'|'.join(MODES)}))?(:{_DIST})?"
        ),
        _bag,
    ),
    "model": (
        "NAME@BATCH, as seed@32",
        re.compile(r"(?P<name>[a-zA-Z _-]+)@(?P<batch>\d+)"),
        _model,
    ),
}
