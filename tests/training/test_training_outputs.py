"""Models of several outputs: a loss for each, and how much it counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from twins import parameters_of

import tvmlayers as tl
from tvmlayers.errors import ConfigError, IndexOutOfRangeError

F = torch.nn.functional
RNG = np.random.default_rng(3)
BATCH = 23
X = RNG.standard_normal((BATCH, 6))
Y = (RNG.integers(0, 4, BATCH), RNG.standard_normal((BATCH, 2)))


def two_heads(dtype: str = "float64") -> tl.Model:
    """Classes and numbers of one trunk."""
    x = tl.Input((6,), dtype=dtype)
    trunk = tl.Dense(8, activation="tanh", dtype=dtype, seed=1, name="trunk")(x)
    kinds = tl.Dense(4, activation="softmax", dtype=dtype, seed=2, name="kind")(trunk)
    sizes = tl.Dense(2, dtype=dtype, seed=3, name="size")(trunk)
    return tl.Model(x, [kinds, sizes])


LOSSES = {"size": "mse", "kind": "sparse_categorical_crossentropy"}


@pytest.fixture(scope="module")
def step() -> tl.TrainingStep:
    weights = {"size": 0.3}
    return tl.compile_step(two_heads(), LOSSES, tl.optimizers.SGD(0.2), loss_weights=weights)


def losses_of(weights: dict[str, torch.Tensor], counts: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Both losses in PyTorch, of which each sample counts so much."""
    h = torch.tanh(torch.as_tensor(X) @ weights["trunk/kernel"] + weights["trunk/bias"])
    logits = h @ weights["kind/kernel"] + weights["kind/bias"]
    sizes = h @ weights["size/kernel"] + weights["size/bias"]
    kind = F.cross_entropy(logits, torch.as_tensor(Y[0]), reduction="none")
    size = ((sizes - torch.as_tensor(Y[1])) ** 2).mean(1)
    return (kind * counts).mean(), (size * counts).mean()


def test_ten_steps_make_the_weighted_sum_of_the_losses_smaller(step: tl.TrainingStep) -> None:
    parameters = parameters_of(step)
    optimizer = torch.optim.SGD(parameters.values(), 0.2)
    counts = np.linspace(0.5, 2, BATCH)
    for i in range(10):
        given = None if i % 2 else counts
        optimizer.zero_grad()
        kind, size = losses_of(parameters, torch.as_tensor(1.0 if given is None else given))
        wanted = kind + 0.3 * size
        wanted.backward()
        optimizer.step()
        y = {"kind": Y[0], "size": Y[1]} if i % 3 else Y
        assert step(X, y, sample_weight=given) == pytest.approx(float(wanted.detach()), rel=1e-12)
        each = {"kind": float(kind.detach()), "size": float(size.detach())}
        assert step.losses() == pytest.approx(each, rel=1e-12)
    for name, weight in step.weights().items():
        np.testing.assert_allclose(weight, parameters[name].detach(), rtol=1e-11, atol=1e-13)


def test_the_predictions_are_those_of_each_output(step: tl.TrainingStep) -> None:
    before = step.compiled()(X)
    step(X, Y)
    made = step.predictions()
    assert [each.shape for each in made] == [(BATCH, 4), (BATCH, 2)]
    for ours, wanted in zip(made, before, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-12, atol=1e-14)


def test_a_label_that_is_no_class_is_named_with_its_output(step: tl.TrainingStep) -> None:
    before = step.weights()
    labels = np.where(np.arange(BATCH) == 7, 4, Y[0])
    with pytest.raises(IndexOutOfRangeError, match=r"label 4 at position 7 of y\['kind'\]"):
        step(X, (labels, Y[1]))
    assert all(np.array_equal(before[name], w) for name, w in step.weights().items())


@pytest.mark.parametrize(
    ("loss", "weights", "said"),
    [
        (["mse"], None, r"one for each output of the model, \['kind', 'size'\]"),
        ({"kind": "mse", "sizes": "mse"}, None, "names of the model's outputs"),
        ("mse", [1.0, 2.0, 3.0], "loss_weights expected one for each output"),
    ],
)
def test_losses_of_other_outputs_are_refused(loss: Any, weights: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tl.compile_step(two_heads(), loss, loss_weights=weights)


def test_y_of_another_number_of_outputs_is_refused(step: tl.TrainingStep) -> None:
    with pytest.raises(ConfigError, match="y expected one for each output"):
        step(X, Y[0])


def test_an_output_that_is_read_as_probabilities_keeps_its_softmax() -> None:
    x = tl.Input((3,))
    kinds = tl.Dense(4, activation="softmax", name="kind")(x)
    with pytest.raises(ConfigError, match="another layer reads it too"):
        tl.compile_step(
            tl.Model(x, [kinds, tl.Dense(1)(kinds)]), ["sparse_categorical_crossentropy", "mse"]
        )


def test_histories_have_the_names_of_keras() -> None:
    model = two_heads("float32")
    model.compile(
        "sgd",
        LOSSES,
        loss_weights={"size": 0.5},
        metrics={"kind": ["accuracy"], "size": "mae"},
    )
    x, y = X.astype(np.float32), {"kind": Y[0], "size": Y[1]}
    history = model.fit(x, y, epochs=2, batch_size=8, validation_split=0.3, seed=1, verbose=0)
    own = ["loss", "kind_loss", "size_loss", "kind_accuracy", "size_mae"]
    assert list(history.history) == [*own, *(f"val_{name}" for name in own)]
    logs = model.evaluate(x, Y, return_dict=True)
    assert list(logs) == model.metrics_names == own
    kinds, sizes = model.predict(x)
    assert logs["kind_accuracy"] == (kinds.argmax(1) == Y[0]).mean()
    # float32 sums: some roundings of numbers near one.
    chosen = -np.log(kinds[np.arange(BATCH), Y[0]]).mean(dtype=np.float64)
    each = [chosen, np.square(sizes - Y[1]).mean(dtype=np.float64)]
    assert [logs["kind_loss"], logs["size_loss"]] == pytest.approx(each, rel=1e-5)
    assert logs["loss"] == pytest.approx(each[0] + 0.5 * each[1], rel=1e-5)
    assert logs["size_mae"] == pytest.approx(np.abs(sizes - Y[1]).mean(), rel=1e-5)
    batches = [(x[:8], (Y[0][:8], Y[1][:8])), (x[8:], y | {"kind": Y[0][8:], "size": Y[1][8:]})]
    again = model.fit(batches, epochs=1, verbose=0).history
    assert again["loss"][0] == pytest.approx(
        again["kind_loss"][0] + 0.5 * again["size_loss"][0], rel=1e-6
    )


def test_metrics_of_several_outputs_come_by_output() -> None:
    with pytest.raises(ConfigError, match="metrics expected one for each output"):
        two_heads("float32").compile("sgd", LOSSES, metrics=["accuracy"])


def test_class_weights_of_several_outputs_are_refused() -> None:
    model = two_heads("float32")
    model.compile("sgd", LOSSES)
    with pytest.raises(ConfigError, match="class_weight is for models of one output"):
        model.fit(X.astype(np.float32), Y, class_weight={0: 2.0}, verbose=0)
