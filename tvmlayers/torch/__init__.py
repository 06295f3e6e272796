"""Compiled layers inside of PyTorch: modules, operators and a backend of `torch.compile`.

Importing this package imports torch, and registers the operators and the backend with it.
"""

from tvmlayers.torch import operators  # noqa: F401  registers them
from tvmlayers.torch.modules import Embedding, EmbeddingBag, Linear
from tvmlayers.torch.replacing import Replacement, replace_layers

__all__ = [
    "Embedding",
    "EmbeddingBag",
    "Linear",
    "Replacement",
    "replace_layers",
]
