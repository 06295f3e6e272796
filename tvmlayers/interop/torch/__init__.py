"""PyTorch models, read through `torch.export`."""

from tvmlayers.interop.torch.reading import from_torch

__all__ = ["from_torch"]
