"""Layers that are used in several places: the gradients of all uses are summed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from twins import forward, parameters_of

import tvmlayers as tl
from tvmlayers.errors import ConfigError

F = torch.nn.functional
DTYPE, BATCH = "float64", 19
RNG = np.random.default_rng(5)
X = (RNG.integers(0, 9, (BATCH, 3)), RNG.integers(0, 9, (BATCH, 5)))
Y = RNG.standard_normal((BATCH, 1))


def siamese() -> tl.Model:
    """A table looked up and summed in bags, a tower of vectors, a norm of vectors and sequences."""
    left, right = tl.Input((3,), dtype="int64"), tl.Input((5,), dtype="int64")
    table = tl.Embedding(9, 6, padding_idx=4, dtype=DTYPE, seed=1)
    bag = tl.EmbeddingBag(7, 6, oob="clip", dtype=DTYPE, seed=2)
    tower = tl.Dense(11, activation="tanh", dtype=DTYPE, seed=3)
    norm = tl.LayerNormalization(dtype=DTYPE)
    rows = norm(tower(table(left)))
    pooled = [tl.GlobalAveragePooling1D()(rows), norm(tower(bag(left))), norm(tower(bag(right)))]
    others = norm(tower(tl.GlobalAveragePooling1D()(tl.Activation("relu")(table(right)))))
    joined = tl.Concatenate()([*pooled, others])
    return tl.Model([left, right], tl.Dense(1, dtype=DTYPE, seed=4)(joined))


def clipped(model: tl.Model, parameters: Any, left: Any, right: Any) -> torch.Tensor:
    """`forward`, with the indices of the bags clipped as they are by the layer."""
    table = dict(parameters)
    name = next(name for name in table if name.startswith("embedding_bag"))
    table[name] = table[name][np.minimum(np.arange(9), 6)]
    return forward(model, table, left, right)


OPTIMIZERS = [
    (tl.optimizers.SGD(0.02), lambda p: torch.optim.SGD(p, 0.02)),
    (tl.optimizers.Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
]


@cache
def compiled(optimizer: tl.optimizers.Optimizer) -> tl.TrainingStep:
    return tl.compile_step(siamese(), "mse", optimizer)


@pytest.mark.parametrize(("ours", "theirs"), OPTIMIZERS, ids=lambda o: getattr(o, "kind", ""))
def test_ten_steps_of_shared_layers_are_those_of_torch(ours: Any, theirs: Any) -> None:
    step = compiled(ours)
    parameters = parameters_of(step)
    optimizer = theirs(list(parameters.values()))
    for _ in range(10):
        optimizer.zero_grad()
        wanted = F.mse_loss(clipped(step.model, parameters, *X), torch.as_tensor(Y))
        wanted.backward()
        optimizer.step()
        assert step(X, Y) == pytest.approx(float(wanted.detach()), rel=1e-9)
    for name, weight in step.weights().items():
        # Roundings of sums that begin near zero grow by some orders where they are divided by.
        np.testing.assert_allclose(weight, parameters[name].detach(), rtol=1e-7, atol=1e-9)


def test_shared_layers_give_the_same_bits_on_any_number_of_threads(tmp_path: Path) -> None:
    step = compiled(tl.optimizers.Adam(0.01))
    step.save(tmp_path / "begin.safetensors")
    x, y = tuple(np.tile(each, (13, 1)) for each in X), np.tile(Y, (13, 1))
    found = []
    for threads in (1, 2):
        step.threads = threads
        step.load(tmp_path / "begin.safetensors")
        found.append(([step(x, y) for _ in range(2)], step.weights()))
    (losses, one), (others, two) = found
    assert losses == others
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_masked_mean_skips_the_rows_that_another_use_trains() -> None:
    ids = tl.Input((4,), dtype="int64")
    table = tl.Embedding(6, 3, mask_zero=True, dtype=DTYPE, seed=1)
    mean = tl.GlobalAveragePooling1D()(table(ids))
    made = tl.Concatenate()([mean, tl.Flatten()(table(ids))])
    step = tl.compile_step(tl.Model(ids, made), "mse", tl.optimizers.SGD(1.0))
    x, y = RNG.integers(0, 3, (BATCH, 4)), RNG.standard_normal((BATCH, 15))
    x[:, 0] = 1
    (name,) = step.weights()
    weight = parameters_of(step)[name]
    rows = F.embedding(torch.as_tensor(x), weight)
    there = torch.as_tensor(x != 0)[..., None]
    mean = (rows * there).sum(1) / there.sum(1)
    loss = F.mse_loss(torch.cat([mean, rows.flatten(1)], 1), torch.as_tensor(y))
    (gradient,) = torch.autograd.grad(loss, weight)
    assert step(x, y) == pytest.approx(float(loss.detach()), rel=1e-12)
    moved = weight.detach().numpy() - step.weights()[name]
    np.testing.assert_allclose(moved, gradient, rtol=1e-10, atol=1e-15)


def test_shared_layers_on_sequences_of_any_length_are_refused_by_name() -> None:
    x = tl.Input((None, 3), dtype=DTYPE)
    tower = tl.Dense(3, dtype=DTYPE)
    made = tl.GlobalAveragePooling1D()(tower(tower(x)))
    with pytest.raises(ConfigError, match="used in several places, on sequences of any length"):
        tl.compile_step(tl.Model(x, made), "mse")
