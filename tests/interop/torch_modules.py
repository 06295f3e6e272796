"""PyTorch modules for the tests of their importer, and the check that an import is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import tvmlayers as tl


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def ids(*shape: int, rows: int = 20) -> Tensor:
    return torch.randint(0, rows, shape)


def check(module: Any, example: Any, samples: tuple[int, ...] = (1, 5), **options: Any) -> tl.Model:
    """The imported model, whose compiled form gives what the module gives."""
    model = tl.from_torch(module, example, **options)
    report = tl.verify(tl.compile(model), against=module, samples=samples)
    assert report.ok, str(report)
    return model


X = torch.zeros(3, 6)
STEPS = torch.zeros(3, 4, 6)
