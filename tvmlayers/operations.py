"""The table of operations: one row for each layer, which names its functions in every stage.

A stage looks up here what it does with a layer. A row names functions instead of holding them:
no stage may import a later one, and a process that only runs artefacts loads none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

from tvmlayers.errors import ConfigError, TargetError


@dataclass(frozen=True)
class Operation:
    """What belongs to one layer, each field as "module:name" inside of the package.

    layer: its class; cpu, cuda: the functions that lower it, which views need not; cuda is None
    where there is no kernel for GPUs yet. formula: of an operation element by element, what it
    makes of a layer and the expressions of one element of each operand (see `expr.formulas`).
    reference: the step in PyTorch and float64, with its bound; training: what a training step makes
    of it (see `codegen.training.parts`), None where it has no derivative yet.
    """

    layer: str
    reference: str
    cpu: str | None = None
    cuda: str | None = None
    formula: str | None = None
    training: str | None = None

    def part(self, name: str) -> Any:
        """What a field of the row names; None where it is empty."""
        path = getattr(self, name)
        if path is None:
            return None
        module, _, found = path.partition(":")
        return getattr(import_module(f"tvmlayers.{module}"), found)

    @cached_property
    def layer_class(self) -> type:
        """The class of the layer."""
        found: type = self.part("layer")
        return found


def _training(name: str) -> str | None:
    return f"codegen.training.{name}" if name else None


def _view(layer: str, reference: str, training: str = "") -> Operation:
    return Operation(layer, f"testing.reference:{reference}", training=_training(training))


def _own(layer: str, reference: str, cpu: str, cuda: str, training: str = "") -> Operation:
    """An operation with kernels of its own."""
    return Operation(
        layer,
        f"testing.{reference}",
        f"codegen.cpu.{cpu}",
        f"codegen.cuda.{cuda}",
        training=_training(training),
    )


def _elementwise(layer: str, name: str, training: str = "merges:elementwise") -> Operation:
    """An operation element by element: all of them have one kind of kernel."""
    return Operation(
        layer,
        f"testing.elementwise:{name}",
        "codegen.cpu.elementwise:lower_elementwise",
        "codegen.cuda.kernels.formulas:lower_elementwise",
        formula=f"expr.formulas:{name}",
        training=_training(training),
    )


def _normalisation(layer: str, name: str) -> Operation:
    """A normalisation of rows: all of them have one kind of kernel."""
    return Operation(
        layer,
        f"testing.normalization:{name}",
        "codegen.cpu.normalization:lower_normalization",
        "codegen.cuda.kernels.formulas:lower_normalization",
        formula=f"expr.normalization:{name}",
        training=_training("merges:normalization"),
    )


_ROWS = "kernels.rows"
OPERATIONS: dict[str, Operation] = {
    "Activation": _own(
        "layers.activation:Activation",
        "reference:activation",
        "activation:lower_activation",
        f"{_ROWS}:lower_activation",
        "parts:activation",
    ),
    "Add": _elementwise("layers.merge:Add", "add"),
    "Average": _elementwise("layers.merge:Average", "average"),
    "BatchNormalization": _elementwise(
        "layers.batch_normalization:BatchNormalization",
        "batch_normalization",
        "batch_normalization:batch_normalization",
    ),
    "Concatenate": _own(
        "layers.concatenate:Concatenate",
        "reference:concatenate",
        "concatenate:lower_concatenate",
        f"{_ROWS}:lower_concatenate",
        "merges:concatenate",
    ),
    "Dense": _own(
        "layers.dense:Dense",
        "reference:dense",
        "dense:lower_dense",
        "kernels.dense:lower_dense",
        "parts:dense",
    ),
    "Dot": _own(
        "layers.dot:Dot", "reference:dot", "dot:lower_dot", f"{_ROWS}:lower_dot", "merges:dot"
    ),
    "DotInteraction": _own(
        "layers.dot_interaction:DotInteraction",
        "reference:dot_interaction",
        "dot:lower_dot_interaction",
        f"{_ROWS}:lower_dot_interaction",
        "merges:dot_interaction",
    ),
    "Dropout": _view("layers.dropout:Dropout", "dropout", "merges:dropout"),
    "ELU": _elementwise("layers.elementwise:ELU", "elu"),
    "Embedding": _own(
        "layers.embedding:Embedding",
        "lookups:embedding",
        "lookup:lower_embedding",
        "kernels.lookup:lower_embedding",
        "parts:embedding",
    ),
    "EmbeddingBag": _own(
        "layers.embedding_bag:EmbeddingBag",
        "lookups:embedding_bag",
        "bag:lower_bag",
        "kernels.lookup:lower_bag",
        "parts:embedding_bag",
    ),
    "Flatten": _view("layers.flatten:Flatten", "flatten", "parts:view"),
    "GlobalAveragePooling1D": _own(
        "layers.pooling:GlobalAveragePooling1D",
        "reference:average_pooling",
        "pooling:lower_pooling",
        f"{_ROWS}:lower_pooling",
        "parts:average_pooling",
    ),
    "GlobalMaxPooling1D": _own(
        "layers.pooling:GlobalMaxPooling1D",
        "reference:max_pooling",
        "pooling:lower_max_pooling",
        f"{_ROWS}:lower_max_pooling",
        "parts:max_pooling",
    ),
    "LayerNormalization": _normalisation(
        "layers.normalization:LayerNormalization", "layer_normalization"
    ),
    "LeakyReLU": _elementwise("layers.elementwise:LeakyReLU", "leaky_relu"),
    "Maximum": _elementwise("layers.merge:Maximum", "maximum"),
    "Minimum": _elementwise("layers.merge:Minimum", "minimum"),
    "Multiply": _elementwise("layers.merge:Multiply", "multiply"),
    "PReLU": _elementwise("layers.elementwise:PReLU", "prelu"),
    "RMSNormalization": _normalisation(
        "layers.normalization:RMSNormalization", "rms_normalization"
    ),
    "Rescaling": _elementwise("layers.elementwise:Rescaling", "rescaling"),
    "Reshape": _view("layers.reshape:Reshape", "reshape", "parts:view"),
    "Subtract": _elementwise("layers.merge:Subtract", "subtract"),
    "UnitNormalization": _normalisation(
        "layers.normalization:UnitNormalization", "unit_normalization"
    ),
}
"""By the name of the layer's class."""


def operation_of(layer: Any) -> Operation:
    """The row of a layer; ConfigError for a class without one, as a user's subclass of a layer."""
    kind = type(layer)
    row = OPERATIONS.get(kind.__name__)
    if row is not None and row.layer_class is kind:
        return row
    bases = [base.__name__ for base in kind.__mro__[1:]]
    known = next((name for name in bases if name in OPERATIONS), None)
    if known is not None:
        why = f"a subclass of {known}, and only {known} itself can be compiled: what a subclass "
        why += f"changes would be lost. Use tl.{known}, and a function that makes it as you need it"
    else:
        why = "no layer of tvmlayers: compose what it computes of those that there are"
    raise ConfigError(f"{layer.describe()} is of class {kind.__qualname__}, {why}")


def lowering_of(layer: Any, family: str) -> Any:
    """The function that lowers a layer for "cpu" or "cuda"; TargetError where there is none."""
    found = operation_of(layer).part(family)
    if found is None:
        raise TargetError(
            f"{layer.describe()} has no kernel for CUDA targets yet: compile the model for a CPU "
            'target, such as tl.compile(model, target="native")'
        )
    return found
