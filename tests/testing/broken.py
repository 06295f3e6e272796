"""A wrong kernel, planted into a compiled model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Broken:
    """A compiled model whose results go through `spoil`."""

    def __init__(self, compiled: Any, spoil: Callable[[Any], Any]) -> None:
        self._compiled, self._spoil = compiled, spoil

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiled, name)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self._spoil(self._compiled(*inputs, **named))
