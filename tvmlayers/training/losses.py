"""What a step makes smaller: one number for each sample, averaged over the batch.

As in Keras, the loss of a batch is the sum of the samples' losses, each times its sample weight
where there are any, over the number of samples. A sample of several outputs counts with the mean
over them. The formulas as tensor expressions are in `expr.losses`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from tvmlayers.errors import ConfigError, unknown_name
from tvmlayers.numeric import real


@dataclass(frozen=True)
class Loss:
    """What all losses share. y_true has the shape and dtype of the model's output."""

    activation: ClassVar[str | None] = None
    """The activation of the model's last layer that the loss is computed without, from logits."""
    is_sparse: ClassVar[bool] = False
    """y_true holds class numbers, one for each sample, and the output a row of classes."""

    @property
    def kind(self) -> str:
        """The name of its class."""
        return type(self).__name__

    def __post_init__(self) -> None:
        smoothing = getattr(self, "label_smoothing", 0.0)
        if not 0 <= real(self.kind, "label_smoothing", smoothing) <= 1:
            raise ConfigError(f"{self.kind} expected label_smoothing in 0..1, got {smoothing!r}")


@dataclass(frozen=True)
class _OfClasses(Loss):
    """from_logits: the model gives logits; else it ends with the loss's activation, without which
    the loss is computed. label_smoothing: the share that all classes get alike."""

    from_logits: bool = False
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class SparseCategoricalCrossentropy(_OfClasses):
    """-log of the probability of class y_true: integers (batch,) or (batch, 1)."""

    activation: ClassVar[str | None] = "softmax"
    is_sparse: ClassVar[bool] = True


@dataclass(frozen=True)
class CategoricalCrossentropy(_OfClasses):
    """-sum of y_true * log(p) over the classes, y_true their probabilities."""

    activation: ClassVar[str | None] = "softmax"


@dataclass(frozen=True)
class BinaryCrossentropy(_OfClasses):
    """-(y log(p) + (1 - y) log(1 - p)), y_true in 0..1; smoothing pulls it towards 1/2."""

    activation: ClassVar[str | None] = "sigmoid"


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """(y_pred - y_true)^2"""


@dataclass(frozen=True)
class MeanAbsoluteError(Loss):
    """|y_pred - y_true|; its derivative is 0 where both are the same."""


@dataclass(frozen=True)
class Huber(Loss):
    """d^2 / 2 where d = |y_pred - y_true| is at most delta, else delta * (d - delta / 2)."""

    delta: float = 1.0


@dataclass(frozen=True)
class Hinge(Loss):
    """max(1 - y_true * y_pred, 0), y_true -1 or 1; 0 counts as -1, as in Keras."""


@dataclass(frozen=True)
class CosineSimilarity(Loss):
    """-sum of y_true * y_pred over the outputs, both scaled to length 1. A square of a length
    below 1e-12 counts as that, as in Keras."""


@dataclass(frozen=True)
class Custom(Loss):
    """A tensor expression of two elements, function(y_true, y_pred), averaged over the outputs.

    It is differentiated as it stands: sums, products, quotients, `te.exp`, `te.log`, `te.sqrt`,
    `te.tanh`, `te.sigmoid`, `te.abs`, `te.power` by a constant, `te.max`, `te.min` and
    `tvm.tirx.Select`.
    """

    function: Callable[[Any, Any], Any] = lambda y_true, y_pred: y_pred


LOSSES: dict[str, type[Loss]] = {
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "binary_crossentropy": BinaryCrossentropy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
    "huber": Huber,
    "hinge": Hinge,
    "cosine_similarity": CosineSimilarity,
}


def get(loss: object) -> Loss:
    """The loss that a name such as "mse" stands for, a function of two tensor expressions, or the
    object itself. UnknownNameError for another name, ConfigError for what is no loss."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise unknown_name("loss", loss, LOSSES)
        return LOSSES[loss]()
    if callable(loss):
        return Custom(loss)
    raise ConfigError(
        "loss expected an object of tl.losses, a name such as 'mse' or a function of two tensor "
        f"expressions, got {type(loss).__name__}"
    )
