"""Keras 3 models, read from their configuration: neither Keras nor its backend is imported."""

from tvmlayers.interop.keras.reading import from_keras

__all__ = ["from_keras"]
