"""Compiled layers inside of PyTorch: modules, operators and a backend of `torch.compile`.

Importing this package imports torch and registers the operators with it. `backend` is registered by
the installed package's metadata, under the name "tvmlayers".
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tvmlayers.torch import operators  # noqa: F401  registers them
from tvmlayers.torch.modules import Embedding, EmbeddingBag, Linear
from tvmlayers.torch.replacing import Replacement, replace_layers

if TYPE_CHECKING:
    from tvmlayers.torch.compiling import backend as backend
    from tvmlayers.torch.explaining import Explanation as Explanation
    from tvmlayers.torch.explaining import explain as explain

_LAZY = {"backend": "compiling", "Explanation": "explaining", "explain": "explaining"}
"""What imports the compiler of PyTorch, which takes seconds."""

__all__ = [
    "Embedding",
    "EmbeddingBag",
    "Explanation",
    "Linear",
    "Replacement",
    "backend",
    "explain",
    "replace_layers",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'tvmlayers.torch' has no attribute {name!r}")
    value = getattr(import_module(f"tvmlayers.torch.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
