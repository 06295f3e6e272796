"""scikit-learn's linear models and multi-layer perceptrons, with the scalers in front of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers.errors import ConfigError, MissingDependencyError, ModelImportError
from tvmlayers.layers import Dense, Input, Model, Sequential
from tvmlayers.layers.names import snake_case

Array = NDArray[Any]

ACTIVATIONS = {
    "exp": "exponential",
    "identity": "linear",
    "logistic": "sigmoid",
    "relu": "relu",
    "tanh": "tanh",
}
"""What scikit-learn calls the activations of its perceptrons."""


def from_sklearn(estimator: object, *, output: str | None = None, dtype: object = None) -> Model:
    """The Model of a fitted estimator, or of a Pipeline of scalers that ends with one.

    output: the method whose numbers come out, of shape (batch, columns). A classifier has
        "predict_proba" and "decision_function", a regressor "predict". Left out, the first of
        these that is there. Where scikit-learn gives one number a sample, (batch,), it is
        (batch, 1) here; of a binary classifier's two probabilities it is that of the second class.
    dtype: "float32" or "float64"; left out, that of the weights of a perceptron, else "float64".

    StandardScaler and MinMaxScaler (without clip) are folded into the first Dense, in float64.
    ModelImportError for what else is in the pipeline, and for an estimator that was not fitted.
    """
    try:
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted
    except ImportError as error:
        raise MissingDependencyError(
            "from_sklearn needs scikit-learn, which is not installed: "
            "pip install 'tvmlayers[sklearn]'"
        ) from error
    steps = [step for _, step in getattr(estimator, "steps", [("", estimator)])]
    steps = [step for step in steps if step not in (None, "passthrough")]
    known = {**_SCALERS, **_FINAL}
    strange = [type(step).__name__ for step in steps[:-1] if type(step).__name__ not in _SCALERS]
    strange += [type(step).__name__ for step in steps[-1:] if type(step).__name__ not in _FINAL]
    if strange or not steps:
        raise ModelImportError(
            f"from_sklearn cannot import {', '.join(strange) or 'an empty pipeline'}; it knows "
            f"{', '.join(sorted(known))}, the scalers before the last step only"
        )
    try:
        for step in steps:
            check_is_fitted(step)
    except NotFittedError as error:
        raise ModelImportError(f"{error} Then pass it to from_sklearn.") from error
    *scalers, last = steps
    kernels, biases, hidden, final = _FINAL[type(last).__name__](last, output)
    wanted = kernels[0].dtype if dtype is None else dtype
    for scaler in reversed(scalers):
        scale, shift = _SCALERS[type(scaler).__name__](scaler)
        # (x * scale + shift) @ kernel + bias
        first = kernels[0].astype(np.float64)
        biases[0] = biases[0].astype(np.float64) + shift @ first
        kernels[0] = scale[:, None] * first
    activations = [*[hidden] * (len(kernels) - 1), final]
    model = Sequential(
        [
            Input((kernels[0].shape[0],), dtype=wanted),
            *(
                Dense(kernel.shape[1], activation, dtype=wanted)
                for kernel, activation in zip(kernels, activations, strict=True)
            ),
        ],
        name=snake_case(type(last).__name__),
    )
    model.set_weights([part for pair in zip(kernels, biases, strict=True) for part in pair])
    return model


def _standard(scaler: Any) -> tuple[Array, Array]:
    """(scale, shift) of a StandardScaler."""
    features = scaler.n_features_in_
    scale = 1 / scaler.scale_ if scaler.with_std else np.ones(features)
    mean = scaler.mean_ if scaler.with_mean else np.zeros(features)
    return scale, -mean * scale


def _min_max(scaler: Any) -> tuple[Array, Array]:
    """(scale, shift) of a MinMaxScaler."""
    if scaler.clip:
        raise ModelImportError(
            "MinMaxScaler(clip=True) limits its inputs, which no layer here does"
        )
    return scaler.scale_, scaler.min_


Parts = tuple[list[Array], list[Array], str, str]
"""Kernels (in, out), biases (out,), the activation between the layers and the last one."""


def _perceptron(estimator: Any, output: str | None) -> Parts:
    is_classifier = hasattr(estimator, "classes_")
    _pick(estimator, output, ("predict_proba",) if is_classifier else ("predict",))
    if estimator.activation not in ACTIVATIONS:
        raise ModelImportError(f"no layer here has the activation {estimator.activation!r}")
    final = ACTIVATIONS.get(estimator.out_activation_, estimator.out_activation_)
    kernels, biases = list(estimator.coefs_), list(estimator.intercepts_)
    return kernels, biases, ACTIVATIONS[estimator.activation], final


def _linear_classifier(estimator: Any, output: str | None) -> Parts:
    has_probabilities = type(estimator).__name__ == "LogisticRegression"
    methods = ("predict_proba", "decision_function")[not has_probabilities :]
    kernel, bias = _affine(estimator)
    final = "linear"
    if _pick(estimator, output, methods) == "predict_proba":
        final = "sigmoid" if kernel.shape[1] == 1 else "softmax"
        one_by_one = (
            "liblinear" in estimator.solver or getattr(estimator, "multi_class", "") == "ovr"
        )
        if final == "softmax" and one_by_one:
            raise ModelImportError(
                "LogisticRegression made its classes one against the rest, whose probabilities "
                'no layer here computes: pass output="decision_function"'
            )
    return [kernel], [bias], "linear", final


def _linear_regressor(estimator: Any, output: str | None) -> Parts:
    _pick(estimator, output, ("predict",))
    kernel, bias = _affine(estimator)
    return [kernel], [bias], "linear", "linear"


def _affine(estimator: Any) -> tuple[Array, Array]:
    """(kernel, bias) of coef_ and intercept_, either of which may lack an axis."""
    kernel = np.atleast_2d(estimator.coef_).T
    return kernel, np.broadcast_to(estimator.intercept_, (kernel.shape[1],))


def _pick(estimator: Any, output: str | None, methods: Sequence[str]) -> str:
    chosen = methods[0] if output is None else output
    if chosen not in methods:
        raise ConfigError(
            f"from_sklearn can make {' or '.join(methods)} of {type(estimator).__name__}, "
            f"not {output!r}"
        )
    return chosen


_SCALERS: dict[str, Callable[[Any], tuple[Array, Array]]] = {
    "MinMaxScaler": _min_max,
    "StandardScaler": _standard,
}
_FINAL: dict[str, Callable[[Any, str | None], Parts]] = {
    "LinearRegression": _linear_regressor,
    "LinearSVC": _linear_classifier,
    "LogisticRegression": _linear_classifier,
    "MLPClassifier": _perceptron,
    "MLPRegressor": _perceptron,
    "Ridge": _linear_regressor,
    "RidgeClassifier": _linear_classifier,
}
