"""Embedding and dense layers, compiled for the hardware they run on."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tvmlayers.errors import (
    ArtifactError,
    ConfigError,
    DeviceError,
    DeviceMemoryError,
    DTypeError,
    GradientError,
    HostMemoryError,
    IndexOutOfRangeError,
    MissingDependencyError,
    ModelExportError,
    ModelImportError,
    OffsetsError,
    RecordError,
    RecordWarning,
    SaveError,
    ShapeError,
    TargetError,
    TuneError,
    TvmLayersError,
    UnknownNameError,
    WeightsError,
)
from tvmlayers.layers import (
    ELU,
    Activation,
    Add,
    Average,
    BatchNormalization,
    Concatenate,
    Dense,
    Dot,
    DotInteraction,
    Dropout,
    Embedding,
    EmbeddingBag,
    Flatten,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    Input,
    Layer,
    LayerNormalization,
    LeakyReLU,
    Maximum,
    Minimum,
    Model,
    Multiply,
    PReLU,
    Rescaling,
    Reshape,
    RMSNormalization,
    Sequential,
    Subtract,
    UnitNormalization,
    initializers,
    load_model,
    quantize,
)
from tvmlayers.training import callbacks, losses, metrics, optimizers

if TYPE_CHECKING:
    from tvmlayers.codegen import compile as compile
    from tvmlayers.codegen.training import compile_step as compile_step
    from tvmlayers.interop.keras import from_keras as from_keras
    from tvmlayers.interop.onnx import from_onnx as from_onnx
    from tvmlayers.interop.sklearn import from_sklearn as from_sklearn
    from tvmlayers.interop.torch import from_torch as from_torch
    from tvmlayers.interop.weights import read_weights as read_weights
    from tvmlayers.roofline import explain as explain
    from tvmlayers.runtime.compiled import Compiled as Compiled
    from tvmlayers.runtime.compiled import load as load
    from tvmlayers.testing import verify as verify
    from tvmlayers.training.loading import load_step as load_step
    from tvmlayers.training.step import TrainingStep as TrainingStep
    from tvmlayers.tune import tune as tune

__version__ = "0.1.0"

_LAZY = {
    "Compiled": "tvmlayers.runtime.compiled",
    "TrainingStep": "tvmlayers.training.step",
    "compile": "tvmlayers.codegen",
    "compile_step": "tvmlayers.codegen.training",
    "explain": "tvmlayers.roofline",
    "from_keras": "tvmlayers.interop.keras",
    "from_onnx": "tvmlayers.interop.onnx",
    "from_sklearn": "tvmlayers.interop.sklearn",
    "from_torch": "tvmlayers.interop.torch",
    "load": "tvmlayers.runtime.compiled",
    "load_step": "tvmlayers.training.loading",
    "read_weights": "tvmlayers.interop.weights",
    "tune": "tvmlayers.tune",
    "verify": "tvmlayers.testing",
}
"""Public names that live in heavy modules: imported when first asked for."""

__all__ = [
    "ELU",
    "Activation",
    "Add",
    "ArtifactError",
    "Average",
    "BatchNormalization",
    "Compiled",
    "Concatenate",
    "ConfigError",
    "DTypeError",
    "Dense",
    "DeviceError",
    "DeviceMemoryError",
    "Dot",
    "DotInteraction",
    "Dropout",
    "Embedding",
    "EmbeddingBag",
    "Flatten",
    "GlobalAveragePooling1D",
    "GlobalMaxPooling1D",
    "GradientError",
    "HostMemoryError",
    "IndexOutOfRangeError",
    "Input",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "Maximum",
    "Minimum",
    "MissingDependencyError",
    "Model",
    "ModelExportError",
    "ModelImportError",
    "Multiply",
    "OffsetsError",
    "PReLU",
    "RMSNormalization",
    "RecordError",
    "RecordWarning",
    "Rescaling",
    "Reshape",
    "SaveError",
    "Sequential",
    "ShapeError",
    "Subtract",
    "TargetError",
    "TrainingStep",
    "TuneError",
    "TvmLayersError",
    "UnitNormalization",
    "UnknownNameError",
    "WeightsError",
    "callbacks",
    "compile",
    "compile_step",
    "explain",
    "from_keras",
    "from_onnx",
    "from_sklearn",
    "from_torch",
    "initializers",
    "load",
    "load_model",
    "load_step",
    "losses",
    "metrics",
    "optimizers",
    "quantize",
    "read_weights",
    "tune",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'tvmlayers' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
