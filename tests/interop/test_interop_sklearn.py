"""`from_sklearn`: the numbers of scikit-learn's own methods."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC

RNG = np.random.default_rng(0)
X = RNG.normal(3.0, 2.0, (60, 5))
CLASSES = RNG.integers(0, 3, 60)
TWO = X[:, 0] + RNG.normal(size=60) > 3
MANY = RNG.integers(0, 2, (60, 4))
REAL = X @ RNG.normal(size=(5, 2))


def fitted(estimator: Any, y: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few steps do not converge
        return estimator.fit(X, y)


def mlp(**options: Any) -> MLPClassifier:
    return MLPClassifier((6, 4), max_iter=3, random_state=0, **options)


CASES = [
    (mlp(activation="relu"), CLASSES, "predict_proba"),
    (mlp(activation="tanh"), TWO, "predict_proba"),
    (mlp(activation="logistic"), MANY, "predict_proba"),
    (mlp(activation="identity"), CLASSES, "predict_proba"),
    (MLPRegressor(hidden_layer_sizes=(6,), max_iter=3, random_state=0), REAL, "predict"),
    (MLPRegressor(hidden_layer_sizes=(6,), max_iter=3, random_state=0), REAL[:, 0], "predict"),
    (
        MLPRegressor(loss="poisson", hidden_layer_sizes=(6,), max_iter=3, random_state=0),
        np.abs(REAL),
        "predict",
    ),
    (LogisticRegression(), CLASSES, "predict_proba"),
    (LogisticRegression(), CLASSES, "decision_function"),
    (LogisticRegression(fit_intercept=False), TWO, "predict_proba"),
    (LinearSVC(), CLASSES, "decision_function"),
    (LinearSVC(), TWO, "decision_function"),
    (Ridge(), REAL, "predict"),
    (Ridge(fit_intercept=False), REAL[:, 0], "predict"),
    (LinearRegression(), REAL[:, 0], "predict"),
]


@pytest.mark.parametrize("scalers", [(), (StandardScaler(),), (MinMaxScaler(), StandardScaler())])
@pytest.mark.parametrize(("estimator", "y", "output"), CASES)
def test_results_are_those_of_scikit_learn(
    estimator: Any, y: Any, output: str, scalers: tuple[Any, ...]
) -> None:
    from sklearn.base import clone

    made = fitted(make_pipeline(*map(clone, scalers), clone(estimator)), y)
    model = tl.from_sklearn(made, output=output)
    weights = list(model.weights.values())
    wanted = np.asarray(getattr(made, output)(X))
    is_binary = output == "predict_proba" and wanted.shape[1] == 2 != weights[-1].shape[0]
    wanted = wanted[:, 1:] if is_binary else wanted.reshape(60, -1)
    # In float64: scaled inputs are at most 1e2, and folding a scaler in rounds once a weight.
    np.testing.assert_allclose(tl.compile(model)(X), wanted, rtol=1e-11, atol=1e-11)


def test_weights_are_bit_exact_where_nothing_is_folded() -> None:
    made = fitted(mlp(), CLASSES)
    given = [part for pair in zip(made.coefs_, made.intercepts_, strict=True) for part in pair]
    for ours, theirs in zip(tl.from_sklearn(made).get_weights(), given, strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_float32_on_request() -> None:
    made = fitted(LogisticRegression(), CLASSES)
    compiled = tl.compile(tl.from_sklearn(made, dtype="float32"))
    report = tl.verify(compiled, inputs=X.astype(np.float32), against=made.predict_proba)
    assert report.ok, str(report)


def test_verify_notices_another_estimator() -> None:
    made, other = fitted(Ridge(), REAL), fitted(Ridge(alpha=50.0), REAL)
    compiled = tl.compile(tl.from_sklearn(made))
    assert tl.verify(compiled, against=made.predict, inputs=X).ok
    assert not tl.verify(compiled, against=other.predict, inputs=X).ok


@pytest.mark.parametrize(
    ("estimator", "error", "said"),
    [
        (LogisticRegression(), tl.ModelImportError, "not fitted"),
        (make_pipeline(StandardScaler(), Ridge()), tl.ModelImportError, "not fitted"),
        (fitted(make_pipeline(PCA(2), Ridge()), REAL), tl.ModelImportError, "cannot import PCA"),
        (fitted(StandardScaler(), REAL), tl.ModelImportError, "cannot import StandardScaler"),
        (
            fitted(make_pipeline(MinMaxScaler(clip=True), Ridge()), REAL),
            tl.ModelImportError,
            "limits its inputs",
        ),
        (3, tl.ModelImportError, "cannot import int"),
    ],
)
def test_what_cannot_be_imported_is_named(estimator: Any, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        tl.from_sklearn(estimator)


def test_an_output_that_is_not_there_is_named() -> None:
    with pytest.raises(tl.ConfigError, match="decision_function of LinearSVC, not 'predict_proba'"):
        tl.from_sklearn(fitted(LinearSVC(), TWO), output="predict_proba")
