"""What `bench cuda` times: (dtype, case), the layers that share their weights side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from bench import cases, specs
from bench.cases import BagCase, Case, CaseError, DenseCase, EmbeddingCase

KINDS = ("dense", "embedding", "bag")
DTYPES = ("float32", "float16", "bfloat16")

Wanted = tuple[str, DenseCase | EmbeddingCase | BagCase]


def chosen(
    kinds: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    given: Sequence[str] | None = None,
) -> list[Wanted]:
    """The cases of these kinds and dtypes, all where left out; given: case strings instead.

    CaseError where a string cannot be read, or where nothing is left.
    """
    listed = [_read(spec, kinds or KINDS) for spec in given] if given else _public(kinds or KINDS)
    # Lookups and bags are of float32.
    wanted = [
        (dtype, case)
        for dtype, case in product(DTYPES, listed)
        if dtype in (dtypes or DTYPES) and (case.kind == "dense" or dtype == "float32")
    ]
    if not wanted:
        raise CaseError(f"lookups and bags are timed in float32, got {', '.join(dtypes or DTYPES)}")
    return wanted


def _public(kinds: Sequence[str]) -> list[DenseCase | EmbeddingCase | BagCase]:
    found = [case for kind in kinds for case in cases.on_gpu(kind)]
    return [case for case in found if not isinstance(case, cases.ModelCase)]


def _read(spec: str, kinds: Sequence[str]) -> DenseCase | EmbeddingCase | BagCase:
    """The case of the first of the kinds that has strings of this form."""
    for kind in kinds:
        try:
            case: Case = specs.parse(kind, spec)
        except CaseError:
            continue
        # To a dense layer's string any word is an activation.
        if isinstance(case, DenseCase) and case.activation in cases.DISTRIBUTIONS:
            continue
        assert not isinstance(case, cases.ModelCase)
        return case
    forms = "; ".join(f"{kind}: {specs.form(kind)}" for kind in kinds)
    raise CaseError(f"no case is called {spec!r}; expected {forms}")
