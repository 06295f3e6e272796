"""A stand-in for the compiler: layers are tested without it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

import tvmlayers as tl


class FakeCompiler(ModuleType):
    """Remembers the models that it was asked to compile and the calls of what it gave."""

    def __init__(self) -> None:
        super().__init__("tvmlayers.codegen")
        self.models: list[tl.Model] = []
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def compile(self, model: tl.Model, target: str) -> Any:
        assert target == "native"
        self.models.append(model)

        def compiled(*args: Any, **named: Any) -> str:
            self.calls.append((args, named))
            return f"result of {len(self.models)}"

        return compiled


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    fake = FakeCompiler()
    monkeypatch.setitem(sys.modules, "tvmlayers.codegen", fake)
    monkeypatch.setattr(tl, "codegen", fake, raising=False)
    return fake
