"""Gradients clipped by norm, beside PyTorch with the formula of Keras."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from twins import forward, parameters_of

import tvmlayers as tl
from tvmlayers.errors import ConfigError

F = torch.nn.functional
DTYPE = "float64"
RNG = np.random.default_rng(8)
IDS, Y = RNG.integers(0, 40, (300, 3)), 9 * RNG.standard_normal((300, 1))


def clipped(kind: str, parameters: list[torch.Tensor], limit: float) -> None:
    """g * limit / max(norm, limit), of each gradient or of all."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    groups = [gradients] if kind == "global_clipnorm" else [[each] for each in gradients]
    for group in groups:
        norm = torch.sqrt(sum((each**2).sum() for each in group))
        for each in group:
            each *= limit / max(float(norm), limit)


@cache
def compiled(kind: str, adaptive: bool) -> tl.TrainingStep:
    """A table, panels that are not full, a bias, a single column, weights of a norm."""
    made: Any = tl.optimizers.Adam if adaptive else tl.optimizers.SGD
    model = tl.Sequential(
        [
            tl.Embedding(40, 6, input_length=3, dtype=DTYPE, seed=1),
            tl.Flatten(),
            tl.LayerNormalization(dtype=DTYPE),
            tl.Dense(70, activation="tanh", dtype=DTYPE, seed=2),
            tl.Dense(1, dtype=DTYPE, seed=3),
        ]
    )
    return tl.compile_step(model, "mse", made(0.05, **{kind: 0.7}))


@pytest.mark.parametrize(("kind", "adaptive"), [("clipnorm", False), ("global_clipnorm", True)])
def test_ten_steps_with_limits_of_norms_are_those_of_torch(kind: str, adaptive: bool) -> None:
    step = compiled(kind, adaptive)
    parameters = parameters_of(step)
    given = list(parameters.values())
    optimizer = torch.optim.Adam(given, 0.05) if adaptive else torch.optim.SGD(given, 0.05)
    for _ in range(10):
        optimizer.zero_grad()
        loss = F.mse_loss(forward(step.model, parameters, IDS), torch.as_tensor(Y))
        loss.backward()
        clipped(kind, given, 0.7)
        optimizer.step()
        assert step(IDS, Y) == pytest.approx(float(loss.detach()), rel=1e-9)
    for name, weight in step.weights().items():
        # Roundings grow by some orders where a step divides by roots of sums near zero.
        np.testing.assert_allclose(weight, parameters[name].detach(), rtol=1e-7, atol=1e-9)


def test_norms_have_the_same_bits_on_any_number_of_threads() -> None:
    step = compiled("global_clipnorm", True)
    weights, state = step.weights(), step.state()
    found = []
    for threads in (1, 2):
        step.threads = threads
        step.set_weights(weights)
        step.set_state(state)
        found.append([step(IDS, Y) for _ in range(3)])
    assert found[0] == found[1]


def test_a_limit_that_no_norm_reaches_changes_nothing() -> None:
    model = tl.Sequential([tl.Dense(3, input_dim=4, dtype=DTYPE, seed=1)])
    x, y = RNG.standard_normal((9, 4)), RNG.standard_normal((9, 3))
    steps = [
        tl.compile_step(model, "mse", tl.optimizers.SGD(0.1, global_clipnorm=limit))
        for limit in (None, 1e6)
    ]
    for step in steps:
        step(x, y)
    free, limited = (step.weights() for step in steps)
    assert all(np.array_equal(free[name], limited[name]) for name in free)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clipnorm": 1.0, "clipvalue": 1.0}, "one limit of gradients"),
        ({"global_clipnorm": 0.0}, "global_clipnorm above 0"),
        ({"clipnorm": -1.0}, "clipnorm"),
    ],
)
def test_limits_that_cannot_be_are_refused(options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tl.optimizers.Adam(**options)
