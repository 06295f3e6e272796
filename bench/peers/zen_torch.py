"""zentorch: AMD's kernels for PyTorch, a backend of torch.compile.

It packs frozen weights where they are: a module that another side uses too gives wrong results.
"""

# mypy: disable-error-code="import-untyped, import-not-found"

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version as version_of
from typing import Any

import zentorch  # noqa: F401 - registers the backend

from bench.peers import Unsupported, torch_compile
from bench.timing import Side

NAME = "zentorch"

set_up = torch_compile.set_up


def version() -> str:
    return version_of("zentorch")


def _or_unsupported(sides: Callable[[Any], list[Side]], work: Any) -> list[Side]:
    """Unsupported where it cannot compile or run the case: it fails at some sizes."""
    try:
        return sides(work)
    except RuntimeError as error:
        cause = getattr(error, "inner_exception", error)  # beneath what torch.compile adds
        reason, *_ = str(cause).strip().splitlines() or [type(cause).__name__]
        raise Unsupported(f"it fails at {work.case.kind} {work.case.spec}: {reason}") from error


SIDES: dict[str, Callable[[Any], list[Side]]] = {
    kind: partial(_or_unsupported, sides)
    for kind, sides in torch_compile.Backend(NAME, "zentorch").sides().items()
}
