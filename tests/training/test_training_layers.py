"""Derivatives of the layers and losses beside PyTorch's autograd, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tvm import te
from twins import ACTIVATIONS, forward, parameters_of

import tvmlayers as tl
from tvmlayers.errors import ConfigError
from tvmlayers.expr.derivatives import FROM_INPUT, FROM_OUTPUT

F = torch.nn.functional
DTYPE, BATCH = "float64", 29
RNG = np.random.default_rng(1)
X = (
    RNG.standard_normal((BATCH, 13)),
    RNG.integers(0, 50, (BATCH, 4)),
    RNG.integers(0, 40, (BATCH, 3)),
)


def every_merge() -> tl.Model:
    """One of each layer that joins, contracts or normalises; 12 columns fill no vectors."""
    x, ids, others = (
        tl.Input((13,), dtype=DTYPE),
        tl.Input((4,), dtype="int64"),
        tl.Input((3,), dtype="int64"),
    )
    h = tl.LayerNormalization(dtype=DTYPE)(tl.Dense(12, activation="silu", dtype=DTYPE, seed=1)(x))
    e = tl.EmbeddingBag(50, 12, mode="sum", dtype=DTYPE, seed=2)(ids)
    f = tl.EmbeddingBag(40, 12, mode="mean", dtype=DTYPE, seed=3)(others)
    g = tl.Concatenate()([h, tl.DotInteraction()([h, e, f])])
    g = tl.RMSNormalization(dtype=DTYPE)(tl.Multiply()([tl.Dense(12, dtype=DTYPE, seed=4)(g), h]))
    g = tl.Add()([g, tl.Maximum()([e, h]), tl.Subtract()([f, h])])
    g = tl.ELU(0.7)(tl.Average()([g, tl.Minimum()([e, f])]))
    g = tl.Rescaling(3.0, offset=0.1)(tl.UnitNormalization()(tl.LeakyReLU(0.3)(g)))
    dots = [tl.Dot(1)([g, h]), tl.Dot(1, normalize=True)([g, e])]
    return tl.Model([x, ids, others], tl.Concatenate()([*dots, g]))


def test_every_merge_and_normalisation_has_the_gradients_of_autograd() -> None:
    y = RNG.standard_normal((BATCH, 14))
    step = tl.compile_step(every_merge(), "huber", tl.optimizers.SGD(1.0))
    parameters = parameters_of(step)
    loss = F.huber_loss(forward(step.model, parameters, *X), torch.as_tensor(y))
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    before = step.weights()
    assert step(X, y) == pytest.approx(float(loss.detach()), rel=1e-12)
    after = step.weights()
    for (name, _), gradient in zip(parameters.items(), gradients, strict=True):
        # A weight less its gradient: two roundings of the weight.
        np.testing.assert_allclose(before[name] - after[name], gradient, rtol=1e-10, atol=1e-15)


def moves_as_autograd(model: tl.Model, *given: Any, columns: tuple[int, ...]) -> None:
    """One step of SGD moves every weight by its gradient: two roundings of the weight."""
    y = RNG.standard_normal((len(given[0]), *columns))
    step = tl.compile_step(model, "mse", tl.optimizers.SGD(1.0))
    parameters = parameters_of(step)
    loss = F.mse_loss(forward(model, parameters, *given), torch.as_tensor(y))
    gradients = torch.autograd.grad(
        loss, list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    assert step(given, y) == pytest.approx(float(loss.detach()), rel=1e-12)
    after = step.weights()
    frozen = {layer.name for layer in model.layers if not layer.trainable}
    for (name, before), gradient in zip(parameters.items(), gradients, strict=True):
        moved = before.detach().numpy() - after[name]
        wanted = np.zeros_like(moved) if name.split("/")[0] in frozen else gradient
        np.testing.assert_allclose(moved, wanted, rtol=1e-10, atol=1e-14, err_msg=name)


def test_columns_that_fill_no_panel_have_gradients_at_each_step_of_time() -> None:
    x = tl.Input((3, 4), dtype=DTYPE)
    made = tl.Flatten()(tl.Dense(5, activation="relu", dtype=DTYPE, seed=1)(x))
    model = tl.Model(x, tl.Dense(2, dtype=DTYPE, seed=2)(made))
    moves_as_autograd(model, RNG.standard_normal((BATCH, 3, 4)), columns=(2,))


def test_what_is_broadcast_has_the_sums_of_its_gradients() -> None:
    """Slopes for each element, and one for a row; merges of vectors with sequences."""
    x, v = tl.Input((3, 4), dtype=DTYPE), tl.Input((5,), dtype=DTYPE)
    h = tl.PReLU("uniform", dtype=DTYPE)(tl.Dense(6, dtype=DTYPE, seed=1)(x))
    h = tl.PReLU("uniform", shared_axes=1, dtype=DTYPE)(tl.Dense(6, dtype=DTYPE, seed=2)(h))
    h = tl.PReLU("uniform", shared_axes=2, dtype=DTYPE)(tl.Dense(7, dtype=DTYPE, seed=3)(h))
    w = tl.Dense(7, dtype=DTYPE, seed=4)(v)
    h = tl.Rescaling(np.arange(1, 8) / 4, offset=0.5)(tl.Add()([h, w]))
    h = tl.Maximum()([tl.Multiply()([w, h]), tl.Minimum()([h, w])])
    one = tl.Dense(1, dtype=DTYPE, seed=5)(h)
    h = tl.Subtract()([tl.Average()([h, one, w]), one])
    made = tl.Concatenate()([tl.GlobalMaxPooling1D()(h), tl.GlobalAveragePooling1D()(h)])
    model = tl.Model([x, v], made)
    given = RNG.standard_normal((BATCH, 3, 4)), RNG.standard_normal((BATCH, 5))
    moves_as_autograd(model, *given, columns=(14,))


def test_equal_steps_share_the_gradient_of_their_maximum() -> None:
    x = tl.Input((3, 4), dtype=DTYPE)
    pooled = tl.GlobalMaxPooling1D()(tl.Dense(5, activation="relu", dtype=DTYPE, seed=1)(x))
    given = RNG.standard_normal((BATCH, 3, 4))
    given[:, 1] = given[:, 2]
    moves_as_autograd(tl.Model(x, pooled), given, columns=(5,))


def test_bags_of_extremes_and_of_weights_have_the_gradients_of_autograd() -> None:
    ids, x = tl.Input((4,), dtype="int64"), tl.Input((6,), dtype=DTYPE)
    weights = tl.Dense(4, activation="softplus", dtype=DTYPE, seed=1)(x)
    made = [
        tl.EmbeddingBag(50, 11, mode=mode, padding_idx=padding, dtype=DTYPE, seed=2)(ids)
        for mode, padding in (("max", None), ("min", 3))
    ]
    for mode, padding in (("sum", None), ("mean", 5)):
        bag = tl.EmbeddingBag(50, 11, mode=mode, padding_idx=padding, dtype=DTYPE, seed=3)
        made.append(bag(ids, per_sample_weights=weights))
    model = tl.Model([ids, x], tl.Concatenate()(made))
    indices = RNG.integers(0, 12, (BATCH, 4))
    indices[:, 0] = 9
    moves_as_autograd(model, indices, RNG.standard_normal((BATCH, 6)), columns=(44,))


def test_weights_that_are_given_with_a_bag_have_no_gradient() -> None:
    ids, w = tl.Input((4,), dtype="int64"), tl.Input((4,), dtype=DTYPE)
    model = tl.Model([ids, w], tl.EmbeddingBag(50, 3, dtype=DTYPE)(ids, per_sample_weights=w))
    weights = RNG.uniform(0.5, 2, (BATCH, 4))
    moves_as_autograd(model, RNG.integers(0, 50, (BATCH, 4)), weights, columns=(3,))


@pytest.mark.parametrize("normalize", [False, True])
def test_dots_of_matrices_have_the_gradients_of_autograd(normalize: bool) -> None:
    x, v = tl.Input((3, 4), dtype=DTYPE), tl.Input((5,), dtype=DTYPE)
    a, b = (tl.Dense(5, dtype=DTYPE, seed=seed)(x) for seed in (1, 2))
    c = tl.Dense(3, dtype=DTYPE, seed=3)(x)
    u = tl.Dense(5, dtype=DTYPE, seed=4)(v)
    pairs = [((2, 2), a, b), ((1, 1), a, c), ((2, 1), c, b), ((2, 1), a, u), ((1, 2), u, b)]
    dots = [tl.Dot(axes, normalize)([left, right]) for axes, left, right in pairs]
    made = tl.Concatenate()([tl.Flatten()(each) for each in dots])
    given = RNG.standard_normal((BATCH, 3, 4)), RNG.standard_normal((BATCH, 5))
    moves_as_autograd(tl.Model([x, v], made), *given, columns=(int(made.shape[1]),))


def normalised() -> tl.Model:
    """Features last, before other axes, without gamma, without beta, used twice."""
    x = tl.Input((3, 5), dtype=DTYPE)
    h = tl.Dense(70, dtype=DTYPE, seed=1)(x)
    h = tl.Activation("tanh")(tl.BatchNormalization(momentum=0.7, dtype=DTYPE)(h))
    h = tl.BatchNormalization(axis=1, scale=False, dtype=DTYPE)(tl.Dense(6, dtype=DTYPE, seed=2)(h))
    twice = tl.BatchNormalization(center=False, epsilon=0.1, dtype=DTYPE)
    h = tl.Multiply()([twice(h), twice(tl.Activation("relu")(h))])
    return tl.Model(x, tl.GlobalAveragePooling1D()(h))


def test_normalising_by_the_batch_has_the_gradients_of_autograd() -> None:
    x, y = RNG.standard_normal((BATCH * 9, 3, 5)), RNG.standard_normal((BATCH * 9, 6))
    step = tl.compile_step(normalised(), "mse", tl.optimizers.SGD(1.0))
    parameters = parameters_of(step)
    loss = F.mse_loss(forward(step.model, parameters, x), torch.as_tensor(y))
    trained = {name: p for name, p in parameters.items() if "moving" not in name}
    gradients = torch.autograd.grad(loss, list(trained.values()))
    first = {**step.weights(), **step.state()}
    for threads in (1, 2):
        step.threads = threads
        step.set_weights({name: first[name] for name in step.weights()})
        assert step(x, y) == pytest.approx(float(loss.detach()), rel=1e-12)
        after = step.weights()
        for (name, before), gradient in zip(trained.items(), gradients, strict=True):
            moved = before.detach().numpy() - after[name]
            # A Dense's bias before it has the gradient 0: a sum of rounding errors of its terms.
            np.testing.assert_allclose(moved, gradient, rtol=1e-9, atol=1e-14, err_msg=name)
        if threads == 1:
            alone = after
    assert all(np.array_equal(alone[name], after[name]) for name in after)
    rows = x @ first["dense/kernel"] + first["dense/bias"]
    means = rows.mean((0, 1)) * 0.3 + first["batch_normalization/moving_mean"] * 0.7
    variances = rows.var((0, 1)) * 0.3 + first["batch_normalization/moving_variance"] * 0.7
    moving = [after[f"batch_normalization/moving_{name}"] for name in ("mean", "variance")]
    np.testing.assert_allclose(moving, [means, variances], rtol=1e-12, atol=1e-14)
    served = step.update_model()
    np.testing.assert_allclose(
        step.compiled()(x[:4]), tl.compile(served)(x[:4]), rtol=1e-12, atol=1e-14
    )


def test_a_frozen_normalisation_uses_what_it_learned() -> None:
    model = normalised()
    for layer in model.layers:
        layer.trainable = not isinstance(layer, tl.BatchNormalization)
    moves_as_autograd(model, RNG.standard_normal((BATCH, 3, 5)), columns=(6,))


def test_every_activation_has_a_derivative() -> None:
    names = set(ACTIVATIONS) - {"softmax", "log_softmax"}
    assert set(FROM_OUTPUT) | set(FROM_INPUT) == names
    assert not set(FROM_OUTPUT) & set(FROM_INPUT)


@pytest.mark.parametrize(("dtype", "roundings"), [("float64", 2e-15), ("float32", 2e-6)])
def test_every_activation_has_the_gradient_of_autograd(dtype: str, roundings: float) -> None:
    """The gradient of x * w by w is x f'(x w), each activation's beside the others'."""
    x = tl.Input((5,), dtype=dtype)
    h = tl.Dense(5, use_bias=False, dtype=dtype, seed=1)(x)
    made = tl.Concatenate()([tl.Activation(kind)(h) for kind in ACTIVATIONS])
    step = tl.compile_step(tl.Model(x, made), "mae", tl.optimizers.SGD(1.0))
    given = (RNG.standard_normal((64, 5)) * 2).astype(dtype)
    kernel = torch.tensor(step.weights()["dense/kernel"], dtype=torch.float64, requires_grad=True)
    h = torch.tensor(given, dtype=torch.float64) @ kernel
    wanted = torch.cat([each(h) for each in ACTIVATIONS.values()], 1)
    # All targets lie below: the gradient of each output is the same, and none is at a kink.
    (gradient,) = torch.autograd.grad(wanted.mean(), kernel)
    before = step.weights()["dense/kernel"].astype(np.float64)
    step(given, np.full(wanted.shape, -1e3))
    moved = before - step.weights()["dense/kernel"]
    # The largest sum of magnitudes of the gradient's terms, and the weight it is subtracted from.
    scale = float(np.abs(given).mean(0).max() * np.exp(float(h.detach().abs().max()))) / 5 + 1
    error = np.abs(moved - gradient.numpy()).max()
    assert error < roundings * scale


def test_an_activation_of_the_users_own_is_differentiated() -> None:
    def own(x: Any) -> Any:
        return te.tanh(x) * te.sigmoid(x) + te.max(x, x * 0.1) / (te.abs(x) + 2.0)

    def reference(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) * torch.sigmoid(x) + torch.maximum(x, x * 0.1) / (x.abs() + 2)

    x = tl.Input((7,), dtype=DTYPE)
    made = tl.Dense(7, activation=own, use_bias=False, dtype=DTYPE, seed=1)(x)
    step = tl.compile_step(tl.Model(x, made), "mse", tl.optimizers.SGD(1.0))
    given, y = RNG.standard_normal((9, 7)) * 3, RNG.standard_normal((9, 7))
    kernel = torch.tensor(step.weights()["dense/kernel"], requires_grad=True)
    loss = F.mse_loss(reference(torch.tensor(given) @ kernel), torch.tensor(y))
    (gradient,) = torch.autograd.grad(loss, kernel)
    step(given, y)
    moved = kernel.detach().numpy() - step.weights()["dense/kernel"]
    np.testing.assert_allclose(moved, gradient, rtol=1e-12, atol=1e-14)


def test_a_function_without_a_derivative_is_named() -> None:
    x = tl.Input((3,), dtype=DTYPE)
    model = tl.Model(x, tl.Dense(2, dtype=DTYPE)(x))
    with pytest.raises(ConfigError, match="'floor' has no derivative"):
        tl.compile_step(model, lambda y_true, y_pred: te.floor(y_pred - y_true))


def dropping() -> tl.Model:
    x = tl.Input((16,), dtype=DTYPE)
    first = tl.Dense(16, use_bias=False, dtype=DTYPE, seed=1, name="first")
    second = tl.Dense(1, use_bias=False, dtype=DTYPE, seed=2, name="second")
    return tl.Model(x, second(tl.Dropout(0.25, seed=3)(first(x))))


def test_dropout_drops_the_same_elements_backwards_and_others_with_each_step() -> None:
    step = tl.compile_step(dropping(), "mse", tl.optimizers.SGD(1e-3))
    x = np.abs(RNG.standard_normal((1, 16)))
    kept = []
    for _ in range(64):
        before = step.weights()
        step(x, np.ones((1, 1)))
        moved = {name: before[name] - w for name, w in step.weights().items()}
        through = (moved["first/kernel"] != 0).any(0)
        assert np.array_equal(through, (moved["second/kernel"] != 0)[:, 0])
        kept.append(through)
    share = np.mean(kept)
    # 1024 draws: five standard deviations of their mean.
    assert abs(share - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 1024)
    assert len({row.tobytes() for row in kept}) > 60


def test_a_frozen_layer_keeps_its_weights() -> None:
    model = dropping()
    frozen = next(layer for layer in model.layers if layer.name == "first")
    frozen.trainable = False
    step = tl.compile_step(model, "mse", tl.optimizers.SGD(0.1, momentum=0.9))
    before = step.weights()
    step(np.ones((4, 16)), np.zeros((4, 1)))
    after = step.weights()
    assert np.array_equal(before["first/kernel"], after["first/kernel"])
    assert not np.array_equal(before["second/kernel"], after["second/kernel"])
    assert list(step.state()) == ["iterations", "second/kernel:momentum"]


def test_a_model_without_the_activation_of_its_loss_is_refused() -> None:
    model = tl.Sequential([tl.Dense(3, input_dim=2)])
    with pytest.raises(ConfigError, match="from_logits=True"):
        tl.compile_step(model, "sparse_categorical_crossentropy")
