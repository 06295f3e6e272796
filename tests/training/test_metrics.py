"""Metrics and losses of predictions beside scikit-learn, PyTorch and values worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import tvmlayers as tl
from tvmlayers.errors import ConfigError, ShapeError, UnknownNameError
from tvmlayers.training.loss_values import aligned, loss_values

RNG = np.random.default_rng(2)
F = torch.nn.functional
N = 300
CLASSES = RNG.integers(0, 7, N)
ONE_HOT = np.eye(7)[CLASSES]
SCORES = RNG.dirichlet(np.ones(7), N)
BINARY = RNG.integers(0, 2, (N, 1))
# Two decimals: thresholds of which none lies between equal numbers.
CHANCES = np.round(np.clip(0.3 * BINARY + RNG.uniform(0, 0.7, (N, 1)), 0, 1), 2)
WEIGHTS = RNG.uniform(0, 2, N)
REAL = RNG.normal(size=(N, 3))
GUESS = REAL + RNG.normal(size=(N, 3))


def result(metric: Any, y: np.ndarray, p: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Over three batches, after another run was forgotten."""
    made = tl.metrics.get(metric)
    made.update_state(y[:5], p[:5])
    made.reset_state()
    for rows in np.split(np.arange(len(y)), (10, 110)):
        made.update_state(y[rows], p[rows], None if weights is None else weights[rows])
    return made.result()


def in_top(k: int) -> np.ndarray:
    return (np.argsort(-SCORES, axis=1)[:, :k] == CLASSES[:, None]).any(1)


CASES: list[tuple[Any, np.ndarray, np.ndarray, np.ndarray]] = [
    ("accuracy", CLASSES, SCORES, SCORES.argmax(1) == CLASSES),
    ("accuracy", ONE_HOT, SCORES, SCORES.argmax(1) == CLASSES),
    ("accuracy", BINARY, CHANCES, ((CHANCES > 0.5) == BINARY)[:, 0]),
    (tl.metrics.BinaryAccuracy(0.3), BINARY, CHANCES, ((CHANCES > 0.3) == BINARY)[:, 0]),
    ("sparse_top_k_categorical_accuracy", CLASSES, SCORES, in_top(5)),
    (tl.metrics.TopKCategoricalAccuracy(2), ONE_HOT, SCORES, in_top(2)),
    ("mse", REAL, GUESS, ((REAL - GUESS) ** 2).mean(1)),
    ("mean_absolute_error", REAL, GUESS, np.abs(REAL - GUESS).mean(1)),
    (
        *("cosine_similarity", REAL, GUESS),
        F.cosine_similarity(torch.tensor(REAL), torch.tensor(GUESS)).numpy(),
    ),
    ("sparse_categorical_crossentropy", CLASSES, SCORES, -np.log((SCORES * ONE_HOT).sum(1))),
    (lambda y, p: np.abs(y - p).max(1), REAL, GUESS, np.abs(REAL - GUESS).max(1)),
]


@pytest.mark.parametrize(("metric", "y", "p", "each"), CASES)
def test_means_over_samples(metric: Any, y: np.ndarray, p: np.ndarray, each: np.ndarray) -> None:
    assert result(metric, y, p) == pytest.approx(each.mean(), rel=1e-6)
    weighted = (each * WEIGHTS).sum() / WEIGHTS.sum()
    assert result(metric, y, p, WEIGHTS) == pytest.approx(weighted, rel=1e-6)


def test_root_mean_squared_error() -> None:
    wanted = np.sqrt(((REAL - GUESS) ** 2).mean())
    assert result("root_mean_squared_error", REAL, GUESS) == pytest.approx(wanted)


def test_auc_is_that_of_scikit_learn() -> None:
    """Thresholds at odd multiples of 1/2000 lie between all numbers of two decimals."""
    exact = tl.metrics.AUC(num_thresholds=2001)
    for weights in (None, WEIGHTS):
        wanted = roc_auc_score(BINARY[:, 0], CHANCES[:, 0], sample_weight=weights)
        assert result(exact, BINARY, CHANCES, weights) == pytest.approx(wanted, rel=1e-12)
        # 200 thresholds lie closer together than two decimals too.
        assert result("auc", BINARY, CHANCES, weights) == pytest.approx(wanted, rel=1e-12)
    logits = np.log(np.clip(CHANCES, 1e-3, 1 - 1e-3) / (1 - np.clip(CHANCES, 1e-3, 1 - 1e-3)))
    assert result(tl.metrics.AUC(2001, from_logits=True), BINARY, logits) == pytest.approx(
        roc_auc_score(BINARY[:, 0], CHANCES[:, 0])
    )
    with pytest.raises(ConfigError, match=r"0\.\.1"):
        result("auc", BINARY, logits)


def test_names_are_those_that_were_asked_for() -> None:
    assert tl.metrics.get("acc").name == "acc"
    assert tl.metrics.get("mse").name == "mse"
    assert tl.metrics.get(tl.metrics.AUC()).name == "auc"
    with pytest.raises(UnknownNameError, match="Did you mean 'accuracy'"):
        tl.metrics.get("acuracy")
    with pytest.raises(ConfigError, match=r"tl\.metrics"):
        tl.metrics.get(tl.metrics.AUC)


SMOOTH = tl.losses.SparseCategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
LOGITS = RNG.normal(size=(N, 7)) * 4


def torch_loss(function: Any, p: Any, y: Any, **more: Any) -> np.ndarray:
    made = function(torch.tensor(p), torch.tensor(y), reduction="none", **more)
    return np.asarray(made.reshape(N, -1).mean(1))


LOSSES: list[tuple[Any, np.ndarray, np.ndarray, np.ndarray]] = [
    (
        *("sparse_categorical_crossentropy", CLASSES, SCORES),
        torch_loss(F.nll_loss, np.log(SCORES), CLASSES),
    ),
    (SMOOTH, CLASSES, LOGITS, torch_loss(F.cross_entropy, LOGITS, CLASSES, label_smoothing=0.1)),
    (
        tl.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        *(ONE_HOT, LOGITS, torch_loss(F.cross_entropy, LOGITS, ONE_HOT, label_smoothing=0.1)),
    ),
    (
        tl.losses.BinaryCrossentropy(from_logits=True),
        *(ONE_HOT, LOGITS),
        torch_loss(F.binary_cross_entropy_with_logits, LOGITS, ONE_HOT),
    ),
    (
        *("binary_crossentropy", ONE_HOT, SCORES),
        torch_loss(F.binary_cross_entropy, SCORES, ONE_HOT),
    ),
    ("mse", REAL, GUESS, torch_loss(F.mse_loss, GUESS, REAL)),
    ("mae", REAL, GUESS, torch_loss(F.l1_loss, GUESS, REAL)),
    (tl.losses.Huber(0.7), REAL, GUESS, torch_loss(F.huber_loss, GUESS, REAL, delta=0.7)),
    ("hinge", ONE_HOT, LOGITS, np.maximum(1 - (2 * ONE_HOT - 1) * LOGITS, 0).mean(1)),
    (
        *("cosine_similarity", REAL, GUESS),
        -F.cosine_similarity(torch.tensor(REAL), torch.tensor(GUESS)).numpy(),
    ),
    (lambda y, p: (p - y) * (p - y) * 2.0, REAL, GUESS, 2 * ((REAL - GUESS) ** 2).mean(1)),
]


@pytest.mark.parametrize(("loss", "y", "p", "wanted"), LOSSES)
def test_losses_of_samples(loss: Any, y: np.ndarray, p: np.ndarray, wanted: np.ndarray) -> None:
    made = loss_values(tl.losses.get(loss), y, p)
    np.testing.assert_allclose(made, wanted, rtol=1e-6, atol=1e-9)


def test_truth_takes_the_form_of_the_predictions() -> None:
    assert aligned(np.ones(4), (4, 1), False).shape == (4, 1)
    assert aligned(np.ones((4, 1), int), (4, 3), True).shape == (4,)
    with pytest.raises(ShapeError, match=r"y expected shape \(4, 3\)"):
        aligned(np.ones((4, 2)), (4, 3), False)
