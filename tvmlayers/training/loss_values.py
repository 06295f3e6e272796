"""Losses of predictions that are there already, in NumPy: what `evaluate` reports.

A step computes its loss from logits, in compiled code; this starts from what the model gives.
Formulas in float64. Probabilities are kept away from 0 and 1 by EPSILON, as in Keras.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers.errors import ConfigError, DTypeError, IndexOutOfRangeError, ShapeError
from tvmlayers.training import losses

Array = NDArray[Any]
EPSILON = 1e-7


def loss_values(loss: losses.Loss, y_true: Array, y_pred: Array, first: int = 0) -> Array:
    """(batch,) float64, the loss of each sample: not yet times its weight.

    y_true: as `aligned` gives it; y_pred: (batch, outputs), what the model gives. first: the place
    of the first sample among all, which errors name. IndexOutOfRangeError for a label that is no
    class.
    """
    predicted = y_pred.astype(np.float64).reshape(len(y_pred), -1)
    if loss.is_sparse:
        check_labels(y_true, predicted.shape[1], first)
        truth = y_true
    else:
        truth = y_true.astype(np.float64).reshape(predicted.shape)
    formula = _FORMULAS.get(type(loss))
    if formula is None:
        raise ConfigError(f"evaluate has no formula for the loss {loss.kind} so far")
    return formula(loss, truth, predicted)


def aligned(y_true: Array, shape: tuple[int, ...], is_sparse: bool) -> Array:
    """`y_true` in the form that losses and metrics take beside predictions of `shape`.

    Class numbers become (batch,); else (batch,) beside (batch, 1) becomes (batch, 1). ShapeError,
    and DTypeError for class numbers that are no integers.
    """
    if is_sparse:
        y_true = class_numbers(y_true)
        wanted: tuple[int, ...] = shape[:1]
    else:
        y_true = y_true[:, None] if y_true.ndim == 1 and shape[1:] == (1,) else y_true
        wanted = shape
    if y_true.shape != wanted:
        raise ShapeError(f"y expected shape {wanted} for this model and loss, got {y_true.shape}")
    return y_true


def class_numbers(y_true: Array) -> Array:
    """`y_true` as int64, (batch,) where it is (batch, 1). DTypeError where it has no integers."""
    if y_true.dtype.kind not in "iub":
        raise DTypeError(
            f"y expected class numbers, integers of shape (n,), got {y_true.dtype}: cast whole "
            "numbers with .astype('int64'); one-hot rows are for the loss "
            "'categorical_crossentropy'"
        )
    column = y_true.ndim == 2 and y_true.shape[1] == 1
    return (y_true[:, 0] if column else y_true).astype(np.int64, copy=False)


def check_labels(labels: Array, classes: int, first: int = 0) -> None:
    """IndexOutOfRangeError that names the first label that is none of `classes`."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise IndexOutOfRangeError(
            f"label {labels[place]} at position {first + place} of y is none of the {classes} "
            f"classes that the model has outputs for (valid 0..{classes - 1})"
        )


def _log_probabilities(loss: Any, predicted: Array) -> Array:
    if loss.from_logits:
        shifted = predicted - predicted.max(axis=1, keepdims=True)
        log_softmax: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return log_softmax
    logs: Array = np.log(np.clip(predicted, EPSILON, 1 - EPSILON))
    return logs


def _sparse(loss: Any, truth: Array, predicted: Array) -> Array:
    logs, share = _log_probabilities(loss, predicted), loss.label_smoothing
    chosen = logs[np.arange(len(truth)), truth]
    values: Array = -(1 - share) * chosen - share * logs.mean(axis=1)
    return values


def _categorical(loss: Any, truth: Array, predicted: Array) -> Array:
    share = loss.label_smoothing
    smoothed = truth * (1 - share) + share / truth.shape[1]
    values: Array = -(smoothed * _log_probabilities(loss, predicted)).sum(axis=1)
    return values


def _binary(loss: Any, truth: Array, predicted: Array) -> Array:
    target = truth * (1 - loss.label_smoothing) + loss.label_smoothing / 2
    if loss.from_logits:
        each = np.maximum(predicted, 0) - predicted * target + np.log1p(np.exp(-np.abs(predicted)))
    else:
        p = np.clip(predicted, EPSILON, 1 - EPSILON)
        each = -(target * np.log(p) + (1 - target) * np.log1p(-p))
    return _mean(each)


def _huber(loss: Any, truth: Array, predicted: Array) -> Array:
    d, delta = np.abs(predicted - truth), loss.delta
    return _mean(np.where(d <= delta, d * d / 2, delta * (d - delta / 2)))


def _hinge(_: Any, truth: Array, predicted: Array) -> Array:
    return _mean(np.maximum(1 - np.where(truth == 0, -1, truth) * predicted, 0))


def cosine(truth: Array, predicted: Array) -> Array:
    """(batch,), the cosine of the angle between the rows."""
    lengths = [
        np.sqrt(np.maximum((rows * rows).sum(axis=-1), 1e-12)) for rows in (truth, predicted)
    ]
    values: Array = (truth * predicted).sum(axis=-1) / (lengths[0] * lengths[1])
    return values


def _custom(loss: Any, truth: Array, predicted: Array) -> Array:
    """The function of the user, compiled as it is for the step."""
    from tvmlayers.codegen.training.pointwise import evaluate

    return _mean(evaluate(loss, truth, predicted))


def _mean(each: Array) -> Array:
    means: Array = each.mean(axis=1)
    return means


_FORMULAS: dict[type[losses.Loss], Callable[[Any, Array, Array], Array]] = {
    losses.SparseCategoricalCrossentropy: _sparse,
    losses.CategoricalCrossentropy: _categorical,
    losses.BinaryCrossentropy: _binary,
    losses.MeanSquaredError: lambda _, y, p: _mean((p - y) ** 2),
    losses.MeanAbsoluteError: lambda _, y, p: _mean(np.abs(p - y)),
    losses.Huber: _huber,
    losses.Hinge: _hinge,
    losses.CosineSimilarity: lambda _, y, p: -cosine(y, p),
    losses.Custom: _custom,
}
