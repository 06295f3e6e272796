"""Steps beside PyTorch's autograd and optimisers, and what a step refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from twins import forward, parameters_of

import tvmlayers as tl
from tvmlayers.errors import IndexOutOfRangeError, ShapeError, WeightsError

Array = NDArray[Any]

F = torch.nn.functional
optimizers = tl.optimizers
RNG = np.random.default_rng(0)
IDS, LABELS = RNG.integers(0, 60, (37, 3)), RNG.integers(0, 5, 37)
CROSS_ENTROPY = "sparse_categorical_crossentropy"
Made = Callable[[list[torch.Tensor]], torch.optim.Optimizer]


def classifier(dtype: str = "float64") -> tl.Sequential:
    """A table whose rows fill no vectors, a panel that is not full, few classes."""
    return tl.Sequential(
        [
            tl.Embedding(60, 11, input_length=3, dtype=dtype, seed=1),
            tl.Flatten(),
            tl.Dense(70, activation="relu", dtype=dtype, seed=2),
            tl.Dense(5, activation="softmax", dtype=dtype, seed=3),
        ]
    )


def bags(dtype: str = "float64") -> tl.Sequential:
    """Bags with padding, an activation whose derivative needs its input, one output."""
    return tl.Sequential(
        [
            tl.EmbeddingBag(
                60, 16, mode="mean", padding_idx=2, input_shape=(3,), dtype=dtype, seed=4
            ),
            tl.Dense(9, activation="gelu", dtype=dtype, seed=5),
            tl.Dense(1, activation="sigmoid", dtype=dtype, seed=6),
        ]
    )


def compare(
    step: tl.TrainingStep,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    made: Made,
    x: Any,
    y: Any,
    steps: int = 3,
) -> None:
    """Some steps of ours beside PyTorch's, in float64: equal but for rounding.

    A step divides by square roots of sums that begin near zero, so roundings grow by some orders.
    """
    parameters = parameters_of(step)
    optimizer = made(list(parameters.values()))
    for _ in range(steps):
        optimizer.zero_grad()
        wanted = loss(forward(step.model, parameters, x), torch.as_tensor(y))
        wanted.backward()
        optimizer.step()
        assert step(x, y) == pytest.approx(float(wanted.detach()), rel=1e-12)
    for name, weight in step.weights().items():
        np.testing.assert_allclose(weight, parameters[name].detach(), rtol=1e-9, atol=1e-11)


OPTIMIZERS: list[tuple[tl.optimizers.Optimizer, Made]] = [
    (optimizers.SGD(0.5), lambda p: torch.optim.SGD(p, 0.5)),
    (
        optimizers.SGD(0.5, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.5, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    (optimizers.Adagrad(0.05), lambda p: torch.optim.Adagrad(p, 0.05)),
    (optimizers.AdamW(0.01), lambda p: torch.optim.AdamW(p, 0.01)),
]


@pytest.mark.parametrize(("ours", "theirs"), OPTIMIZERS, ids=lambda o: getattr(o, "kind", ""))
def test_steps_are_those_of_torch(ours: tl.optimizers.Optimizer, theirs: Made) -> None:
    step = tl.compile_step(classifier(), CROSS_ENTROPY, ours)
    compare(step, F.cross_entropy, theirs, IDS, LABELS)
    assert step.iterations == 3


@pytest.fixture(scope="module")
def lazy() -> tl.TrainingStep:
    return tl.compile_step(bags(), "binary_crossentropy", "sgd", tables=optimizers.LazyAdam(0.1))


def test_lazy_adam_is_sparse_adam(lazy: tl.TrainingStep) -> None:
    before = lazy.weights()["embedding_bag/embeddings"]
    y = RNG.integers(0, 2, (37, 1)).astype(np.float64)
    parameters = parameters_of(lazy)
    table = parameters["embedding_bag/embeddings"]
    others = [p for p in parameters.values() if p is not table]
    adam, sgd = torch.optim.SparseAdam([table], 0.1), torch.optim.SGD(others, 0.01)
    few = IDS[:5]
    for _ in range(3):
        loss = F.binary_cross_entropy_with_logits(
            forward(lazy.model, parameters, few), torch.as_tensor(y[:5])
        )
        gradients = torch.autograd.grad(loss, [table, *others])
        rows = gradients[0].abs().sum(1).nonzero()[:, 0]
        table.grad = torch.sparse_coo_tensor(
            rows[None], gradients[0][rows], table.shape, check_invariants=True
        )
        for other, gradient in zip(others, gradients[1:], strict=True):
            other.grad = gradient
        adam.step()
        sgd.step()
        lazy(few, y[:5])
    after = lazy.weights()["embedding_bag/embeddings"]
    np.testing.assert_allclose(after, table.detach(), rtol=1e-9, atol=1e-11)
    untouched = np.setdiff1d(np.arange(60), few)
    assert np.array_equal(before[untouched], after[untouched])
    assert np.array_equal(before[2], after[2])  # padding


def by_row(optimizer: Any, w: Array, g: Array, state: dict[str, Array], t: int) -> None:
    """FBGEMM's formulas with one number a row, on rows whose gradient is g: in place."""
    mean = (g * g).mean(1)
    if isinstance(optimizer, optimizers.RowwiseAdagrad):
        state["accumulator"] += mean
        w -= optimizer.learning_rate * g / (np.sqrt(state["accumulator"])[:, None] + 1e-8)
        return
    state["m"] += 0.1 * (g - state["m"])
    state["v"] += 0.001 * (mean - state["v"])
    root = np.sqrt(state["v"] / (1 - 0.999**t))[:, None] + 1e-8
    w -= optimizer.learning_rate * state["m"] / (1 - 0.9**t) / root


@pytest.mark.parametrize(
    "rule", [optimizers.RowwiseAdagrad(0.1), optimizers.RowwiseAdam(0.1)], ids=lambda o: o.kind
)
def test_states_of_a_row_are_one_number(rule: tl.optimizers.Optimizer) -> None:
    step = tl.compile_step(bags(), "binary_crossentropy", "sgd", tables=rule)
    name = "embedding_bag/embeddings"
    states = {key: value for key, value in step.state().items() if key.startswith(name)}
    assert {key.partition(":")[2]: value.ndim for key, value in states.items()} == {
        each: 1 if each in rule.row_slots else 2 for each in rule.slots
    }
    state = {key.partition(":")[2]: value.copy() for key, value in states.items()}
    y = RNG.integers(0, 2, (5, 1)).astype(np.float64)
    for t in range(1, 4):
        parameters = parameters_of(step)
        logits = forward(step.model, parameters, IDS[:5])
        loss = F.binary_cross_entropy_with_logits(logits, torch.as_tensor(y))
        (gradient,) = torch.autograd.grad(loss, [parameters[name]])
        used = np.flatnonzero(gradient.abs().sum(1).numpy())
        table = parameters[name].detach().numpy().copy()
        rows, own = table[used], {key: value[used] for key, value in state.items()}
        by_row(rule, rows, gradient.numpy()[used], own, t)
        table[used] = rows
        for key, value in own.items():
            state[key][used] = value
        step(IDS[:5], y)
        # As above; rows that no index names are the same to the bit.
        np.testing.assert_allclose(step.weights()[name], table, rtol=1e-9, atol=1e-11)
        unused = np.setdiff1d(np.arange(len(table)), used)
        assert np.array_equal(step.weights()[name][unused], table[unused])


@pytest.fixture(scope="module")
def single() -> tl.TrainingStep:
    return tl.compile_step(classifier("float32"), CROSS_ENTROPY, optimizers.Adam(0.01))


def test_bits_are_the_same_for_any_number_of_threads(
    single: tl.TrainingStep, tmp_path: Path
) -> None:
    single.save(tmp_path / "begin.safetensors")
    ids, labels = np.tile(IDS, (9, 1)), np.tile(LABELS, 9)
    found = []
    for threads in (1, 2):
        single.threads = threads
        single.load(tmp_path / "begin.safetensors")
        losses = [single(ids, labels) for _ in range(3)]
        found.append((losses, {**single.weights(), **single.state()}))
    (losses, one), (others, two) = found
    assert losses == others
    for name, array in one.items():
        assert np.array_equal(array, two[name]), name


def test_a_saved_step_goes_on_bit_by_bit(single: tl.TrainingStep, tmp_path: Path) -> None:
    single(IDS, LABELS)
    single.save(tmp_path / "step.safetensors")
    wanted = [single(IDS, LABELS) for _ in range(2)], single.weights()
    single.load(tmp_path / "step.safetensors")
    again = [single(IDS, LABELS) for _ in range(2)], single.weights()
    assert wanted[0] == again[0]
    assert all(np.array_equal(wanted[1][name], again[1][name]) for name in again[1])


def test_compiled_predicts_with_what_is_trained(single: tl.TrainingStep) -> None:
    first = single.compiled()(IDS)
    single(IDS, LABELS)
    weights = {name: torch.tensor(w) for name, w in single.weights().items()}
    wanted = torch.softmax(forward(single.model, weights, IDS), -1)
    made = single.compiled()(IDS)
    np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-6)
    assert not np.array_equal(first, made)


def test_sample_weights_scale_the_losses(single: tl.TrainingStep) -> None:
    weights = {name: torch.tensor(w) for name, w in single.weights().items()}
    weight = np.linspace(0, 2, 37)
    each = F.cross_entropy(
        forward(single.model, weights, IDS), torch.as_tensor(LABELS), reduction="none"
    )
    wanted = float((each.double() * torch.as_tensor(weight)).mean())
    assert single(IDS, LABELS, sample_weight=weight) == pytest.approx(wanted, rel=1e-5)


def test_a_rate_of_zero_moves_nothing(single: tl.TrainingStep) -> None:
    before = single.weights()
    single(IDS, LABELS, learning_rate=0.0)
    assert all(np.array_equal(before[name], w) for name, w in single.weights().items())


@pytest.mark.parametrize(
    ("ids", "labels", "error", "said"),
    [
        (
            IDS,
            np.where(np.arange(37) == 4, 5, LABELS),
            IndexOutOfRangeError,
            "label 5 at position 4",
        ),
        (
            IDS,
            np.where(np.arange(37) == 4, -1, LABELS),
            IndexOutOfRangeError,
            "none of the 5 classes",
        ),
        (IDS + np.eye(37, 3, dtype=int) * 60, LABELS, IndexOutOfRangeError, "at position"),
        (IDS[:0], LABELS[:0], ShapeError, "at least one sample"),
        (IDS, LABELS[:5], ShapeError, "has 5 on axis 0"),
        (IDS[:, :2], LABELS, ShapeError, "sequences of length 3"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_moves(
    single: tl.TrainingStep, ids: Any, labels: Any, error: type[Exception], said: str
) -> None:
    before = {**single.weights(), **single.state()}
    with pytest.raises(error, match=said):
        single(ids, labels)
    after = {**single.weights(), **single.state()}
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_state_of_another_step_is_refused(
    single: tl.TrainingStep, lazy: tl.TrainingStep, tmp_path: Path
) -> None:
    lazy.save(tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="compile the step as it was"):
        single.load(tmp_path / "other.safetensors")


def test_set_weights_takes_what_weights_gives(single: tl.TrainingStep) -> None:
    weights = single.weights()
    single(IDS, LABELS)
    single.set_weights(weights)
    assert all(np.array_equal(weights[name], w) for name, w in single.weights().items())
    # The second copy of a kernel, which gradients go through, follows.
    saved = single.state()
    first = single(IDS, LABELS), single.weights()
    single.set_weights(weights)
    single.set_state(saved)
    second = single(IDS, LABELS), single.weights()
    assert first[0] == second[0]
    assert all(np.array_equal(first[1][name], second[1][name]) for name in weights)
