"""What tells how good predictions are, batch after batch, in NumPy: Keras's names and formulas.

A metric adds batches up with `update_state(y_true, y_pred, sample_weight)`; `result()` is the value
over all of them, and `reset_state()` begins anew. Sums are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tvmlayers.errors import ConfigError, unknown_name
from tvmlayers.numeric import positive, real
from tvmlayers.training import losses
from tvmlayers.training.loss_values import EPSILON, cosine, loss_values

Array = NDArray[Any]


class Metric:
    """What all metrics share. A user's own has `update_state`, `result` and `reset_state`.

    name: its key in logs and histories.
    """

    direction: ClassVar[str | None] = None
    """"max" where more is better, "min" where less is; callbacks with mode="auto" ask for it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def update_state(
        self, y_true: Array, y_pred: Array, sample_weight: Array | None = None
    ) -> None:
        """Add a batch: y_true as the loss takes it, y_pred (batch, outputs)."""
        raise NotImplementedError

    def result(self) -> float:
        """The value over all batches since the last `reset_state`."""
        raise NotImplementedError

    def reset_state(self) -> None:
        """Forget all batches."""
        raise NotImplementedError


class Mean(Metric):
    """The mean over samples of function(y_true, y_pred) -> (batch, ...), sample weights as weights.

    function: of two arrays, as a user may give one in `metrics=`.
    """

    def __init__(self, function: Callable[[Array, Array], Array], name: str) -> None:
        super().__init__(name)
        self.function = function
        self.reset_state()

    def update_state(
        self, y_true: Array, y_pred: Array, sample_weight: Array | None = None
    ) -> None:
        values = np.asarray(self.function(y_true, y_pred), np.float64)
        each = values.reshape(len(y_pred), -1).mean(axis=1)
        self._add(each, np.ones(len(each)) if sample_weight is None else sample_weight)

    def add(self, value: float, weight: float) -> None:
        """Add one number that counts `weight` times."""
        self._add(np.array([value]), np.array([weight]))

    def _add(self, each: Array, weights: Array) -> None:
        weights = weights.astype(np.float64)
        self._total += float((each * weights).sum())
        self._count += float(weights.sum())

    def result(self) -> float:
        return self._total / self._count if self._count else 0.0

    def reset_state(self) -> None:
        self._total = self._count = 0.0


class _Up(Mean):
    direction = "max"


class _Down(Mean):
    direction = "min"


class BinaryAccuracy(_Up):
    """The share of outputs on the same side of `threshold` as the truth, 0 or 1."""

    def __init__(self, threshold: float = 0.5, name: str = "binary_accuracy") -> None:
        limit = real("BinaryAccuracy", "threshold", threshold)
        super().__init__(lambda y, p: y == (p > limit), name)


class CategoricalAccuracy(_Up):
    """The share of samples whose largest output is that of the largest truth."""

    def __init__(self, name: str = "categorical_accuracy") -> None:
        super().__init__(lambda y, p: y.argmax(axis=-1) == p.argmax(axis=-1), name)


class SparseCategoricalAccuracy(_Up):
    """The share of samples whose largest output is that of the class number."""

    def __init__(self, name: str = "sparse_categorical_accuracy") -> None:
        super().__init__(lambda y, p: _labels(y) == p.argmax(axis=-1), name)


class SparseTopKCategoricalAccuracy(_Up):
    """The share of samples for whose class fewer than k outputs are larger."""

    def __init__(self, k: int = 5, name: str = "sparse_top_k_categorical_accuracy") -> None:
        k = positive("SparseTopKCategoricalAccuracy", "k", k)
        super().__init__(lambda y, p: _in_top(_labels(y), p, k), name)


class TopKCategoricalAccuracy(_Up):
    """As SparseTopKCategoricalAccuracy, the truth one-hot rows."""

    def __init__(self, k: int = 5, name: str = "top_k_categorical_accuracy") -> None:
        k = positive("TopKCategoricalAccuracy", "k", k)
        super().__init__(lambda y, p: _in_top(y.argmax(axis=-1), p, k), name)


class CosineSimilarity(_Up):
    """The mean cosine of the angle between truth and prediction."""

    def __init__(self, name: str = "cosine_similarity") -> None:
        super().__init__(lambda y, p: cosine(_float(y), _float(p)), name)


class MeanSquaredError(_Down):
    """The mean of (y_pred - y_true)^2."""

    def __init__(self, name: str = "mean_squared_error") -> None:
        super().__init__(lambda y, p: (_float(p) - _float(y)) ** 2, name)


class RootMeanSquaredError(MeanSquaredError):
    """The square root of the mean of (y_pred - y_true)^2."""

    def __init__(self, name: str = "root_mean_squared_error") -> None:
        super().__init__(name)

    def result(self) -> float:
        return float(np.sqrt(super().result()))


class MeanAbsoluteError(_Down):
    """The mean of |y_pred - y_true|."""

    def __init__(self, name: str = "mean_absolute_error") -> None:
        super().__init__(lambda y, p: np.abs(_float(p) - _float(y)), name)


class AUC(Metric):
    """The area under the ROC curve by the trapezoidal rule over thresholds, as in Keras.

    Predictions in 0..1, or logits where from_logits is true. num_thresholds of them are spread
    evenly: the area is exact where no two predictions of different truths fall between the same.
    """

    direction = "max"

    def __init__(
        self, num_thresholds: int = 200, from_logits: bool = False, name: str = "auc"
    ) -> None:
        super().__init__(name)
        if positive("AUC", "num_thresholds", num_thresholds) < 2:
            raise ConfigError(f"AUC expected num_thresholds of at least 2, got {num_thresholds}")
        inner = np.arange(1, num_thresholds - 1) / (num_thresholds - 1)
        # The outermost lie beyond 0 and 1, so that the curve has both of its ends.
        self._thresholds = np.array([-EPSILON, *inner, 1 + EPSILON], np.float32)
        self.from_logits = from_logits
        self.reset_state()

    def update_state(
        self, y_true: Array, y_pred: Array, sample_weight: Array | None = None
    ) -> None:
        predicted = _float(y_pred)
        if self.from_logits:
            predicted = 0.5 * (1 + np.tanh(predicted / 2))
        if not ((predicted >= 0) & (predicted <= 1)).all():
            raise ConfigError(
                "AUC expected predictions in 0..1: end the model with a sigmoid, or pass "
                "from_logits=True"
            )
        weights = np.ones(len(y_pred)) if sample_weight is None else sample_weight
        weights = np.broadcast_to(
            _float(weights)[:, None], predicted.reshape(len(y_pred), -1).shape
        )
        # How many thresholds lie strictly below a prediction.
        below = np.searchsorted(self._thresholds, predicted.ravel().astype(np.float32), "left")
        truth = y_true.reshape(-1).astype(bool)
        for row, chosen in ((0, truth), (1, ~truth)):
            counted = np.bincount(below[chosen], weights.ravel()[chosen], len(self._thresholds) + 1)
            self._counts[row] += counted

    def result(self) -> float:
        # Predictions above each threshold, from the highest threshold down.
        above = np.cumsum(self._counts[:, ::-1], axis=1)
        totals = self._counts.sum(axis=1)
        if not totals.all():
            return 0.0
        hits, alarms = above[0] / totals[0], above[1] / totals[1]
        return float((np.diff(alarms) * (hits[1:] + hits[:-1]) / 2).sum())

    def reset_state(self) -> None:
        self._counts = np.zeros((2, len(self._thresholds) + 1))


class Accuracy(Metric):
    """Binary, sparse categorical or categorical accuracy, by the shapes of the first batch.

    As Keras takes "accuracy": one output is binary; class numbers beside several are sparse.
    """

    direction = "max"

    def __init__(self, name: str = "accuracy") -> None:
        super().__init__(name)
        self._chosen: Metric | None = None

    def update_state(
        self, y_true: Array, y_pred: Array, sample_weight: Array | None = None
    ) -> None:
        if self._chosen is None:
            if y_pred.shape[-1] == 1:
                self._chosen = BinaryAccuracy()
            elif y_true.ndim < y_pred.ndim or y_true.shape[-1] == 1:
                self._chosen = SparseCategoricalAccuracy()
            else:
                self._chosen = CategoricalAccuracy()
        self._chosen.update_state(y_true, y_pred, sample_weight)

    def result(self) -> float:
        return 0.0 if self._chosen is None else self._chosen.result()

    def reset_state(self) -> None:
        if self._chosen is not None:
            self._chosen.reset_state()


class _OfLoss(_Down):
    """A loss as a metric: its mean, sample weights as weights."""

    def __init__(self, loss: losses.Loss, name: str) -> None:
        super().__init__(lambda y, p: loss_values(loss, y, p), name)


METRICS: dict[str, Callable[[str], Metric]] = {
    "accuracy": Accuracy,
    "acc": Accuracy,
    "auc": lambda name: AUC(name=name),
    "binary_accuracy": lambda name: BinaryAccuracy(name=name),
    "categorical_accuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "top_k_categorical_accuracy": lambda name: TopKCategoricalAccuracy(name=name),
    "sparse_top_k_categorical_accuracy": lambda name: SparseTopKCategoricalAccuracy(name=name),
    "cosine_similarity": CosineSimilarity,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "root_mean_squared_error": RootMeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
    "binary_crossentropy": lambda name: _OfLoss(losses.BinaryCrossentropy(), name),
    "categorical_crossentropy": lambda name: _OfLoss(losses.CategoricalCrossentropy(), name),
    "sparse_categorical_crossentropy": lambda name: _OfLoss(
        losses.SparseCategoricalCrossentropy(), name
    ),
}
"""Made with the name that was asked for, which is its key in histories, as in Keras."""


def get(metric: object) -> Metric:
    """The metric that a name such as "accuracy" stands for, a function of (y_true, y_pred) as its
    mean, or the object itself. UnknownNameError for another name, ConfigError for what is none."""
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric.lower() not in METRICS:
            raise unknown_name("metric", metric, METRICS)
        return METRICS[metric.lower()](metric)
    if callable(metric) and not isinstance(metric, type):
        return Mean(metric, getattr(metric, "__name__", type(metric).__name__))
    raise ConfigError(
        "metrics expected names such as 'accuracy', objects of tl.metrics or functions of "
        f"(y_true, y_pred), got {metric!r}"
    )


def _labels(y: Array) -> Array:
    return y[:, 0] if y.ndim == 2 else y


def _in_top(labels: Array, predicted: Array, k: int) -> Array:
    chosen = np.take_along_axis(predicted, labels[:, None].astype(np.int64), axis=-1)
    found: Array = ((predicted > chosen).sum(axis=-1) < k) & np.isfinite(chosen[:, 0])
    return found


def _float(array: Array) -> Array:
    return array.astype(np.float64)
