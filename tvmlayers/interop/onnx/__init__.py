"""ONNX models, read by the `onnx` package."""

from tvmlayers.interop.onnx.reading import from_onnx

__all__ = ["from_onnx"]
