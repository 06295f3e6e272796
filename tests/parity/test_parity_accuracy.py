"""Activations are exact to a few ulp over all exponents, rise where they should and keep signs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from agreement import Array, Twin, needs, on_cpu

import tvmlayers as tl
from tvmlayers.layers.activations import OVER_LAST_AXIS
from tvmlayers.testing import Bounded, Rounding, compare

torch = pytest.importorskip("torch")
accuracy = pytest.importorskip("bench.accuracy")

pytestmark = on_cpu
NAMES: tuple[str, ...] = accuracy.ELEMENTWISE
TARGETS = ("native", "x86-64-v3", "x86-64-v4")
RISING = set(NAMES) - {"gelu", "gelu_tanh", "silu", "hard_silu", "mish"}
LOG_WIDTHS = (1, 2, 3, 10, 16, 17, 33, 100)


@cache
def numbers() -> Array:
    every: Array = accuracy.points("float32", 64, 20_000)
    bends = np.float32([0.3465736, 0.625, 3, 6, 13.27, 15, 20, 30, 40, 87.33655, 88.72284, 103.98])
    near = bends.view(np.int32)[:, None] + np.arange(-50, 50, dtype=np.int32)
    values = np.concatenate([near.view(np.float32).ravel(), [0.0]]).astype(np.float32)
    return np.unique(np.concatenate([every, values, -values]))


@cache
def results(target: str) -> dict[str, Array]:
    given: dict[str, Array] = accuracy.compiled_activations("float32", target)(numbers())
    return given


def bound_of(name: str, x: Array, dtype: str) -> Bounded:
    """The reference's value and bound for exact numbers."""
    from tvmlayers.testing.activations import steps

    return steps()[name](Bounded.exact(torch.from_numpy(x).double()), Rounding.of(dtype))


@pytest.mark.parametrize("target", [needs(target) for target in TARGETS])
@pytest.mark.parametrize("name", NAMES)
def test_a_float32_activation_is_stable_over_all_exponents(name: str, target: str) -> None:
    given, want = results(target)[name], bound_of(name, numbers(), "float32")
    difference = compare(given, want, Rounding.of("float32"))
    assert difference.is_rounding, f"{name}({numbers()[difference.place]}): {difference}"
    # what rounds to 0 has no sign to be wrong
    exact = want.value.numpy()
    assert not (given * np.sign(exact) < 0).any()


@pytest.mark.parametrize("target", [needs(target) for target in TARGETS])
@pytest.mark.parametrize("name", sorted(RISING))
def test_a_rising_activation_never_falls_by_more_than_an_ulp(name: str, target: str) -> None:
    given = results(target)[name]
    ulp = np.spacing(np.minimum(np.abs(given), np.float32(1e38))).astype(np.float64)
    assert (given[1:] >= given[:-1] - ulp[:-1]).all()


@pytest.mark.parametrize("target", [needs(target) for target in TARGETS])
def test_activations_stay_within_their_limits(target: str) -> None:
    given = results(target)
    for name, low, high in [
        ("sigmoid", 0, 1),
        ("tanh", -1, 1),
        ("elu", -1, np.inf),
        ("softplus", 0, np.inf),
        ("softsign", -1, 1),
        ("exponential", 0, np.inf),
    ]:
        assert given[name].min() >= low, name
        assert given[name].max() <= high, name
    for name in ("gelu", "gelu_tanh", "silu", "mish"):
        assert given[name][numbers() < 0].max() <= 0, name
        assert (given[name][numbers() > 0] <= numbers()[numbers() > 0]).all(), name


def test_gelu_is_exact_where_erf_is_one() -> None:
    x = np.float32([-5.654575, -5.0, -8.0, -12.0])
    wanted = accuracy.exact_with_digits("gelu", x.astype(np.float64))
    given = accuracy.compiled_activations("float32")(x)["gelu"]
    np.testing.assert_allclose(given, wanted.astype(np.float64), rtol=150 * 2.0**-23)
    assert given[0] == pytest.approx(-4.4e-8, rel=0.01)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zeros_infinities_and_nan_give_what_they_give_in_pytorch(dtype: str) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)
    for name, given in accuracy.compiled_activations(dtype)(x).items():
        wanted = accuracy.of_torch(name)(torch.from_numpy(x).double()).numpy().astype(dtype)
        np.testing.assert_array_equal(given, wanted, err_msg=name)
        zeros = wanted == 0
        np.testing.assert_array_equal(np.signbit(given[:2]), np.signbit(wanted[:2]), name)
        assert zeros[0] == zeros[1], name


def test_a_float64_activation_is_stable_over_all_exponents() -> None:
    x = accuracy.points("float64", 1, 100)
    x = x[np.abs(x) < accuracy.MOST_WITH_DIGITS][::7]
    rounding = Rounding.of("float64")
    for name, given in accuracy.compiled_activations("float64")(x).items():
        bound = bound_of(name, x, "float64").bound
        wanted = accuracy.exact_with_digits(name, x).astype(np.float64)
        difference = compare(given, Bounded(torch.from_numpy(wanted), bound), rounding)
        assert difference.is_rounding, f"{name}({x[difference.place]}): {difference}"


@cache
def log_softmax(n: int, dtype: str) -> Twin:
    """log_softmax of rows of n, alone and fused into a Dense that copies its input."""
    x = tl.Input((n,), dtype=dtype)
    copy = tl.Dense(n, "log_softmax", dtype=dtype)
    outputs = [tl.Activation("log_softmax")(x), copy(x)]
    copy.set_weights([np.eye(n), np.zeros(n)])
    return Twin(tl.Model(x, outputs), seed=None)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", LOG_WIDTHS)
def test_log_softmax_keeps_its_digits_far_from_zero(n: int, dtype: str) -> None:
    far = 1e8 if dtype == "float32" else 1e16
    rng = np.random.default_rng(0)
    rows = [np.full((20, n), far), np.full((20, n), -far), rng.random((20, n)) - far / 10]
    rows.append(rng.standard_normal((20, n)) + 1000)
    x = np.concatenate(rows).astype(dtype)
    (wanted, _) = log_softmax(n, dtype).reference(x)
    for batch in (1, 3, 80):
        for result in log_softmax(n, dtype).compiled(x[-batch:]):
            want = wanted.value.numpy()[-batch:]
            # a few roundings of numbers of the size of the result, however large the logits are
            unit = np.finfo(dtype).eps * (np.abs(want) + np.log(n) + 1)
            assert (np.abs(result - want) <= 8 * unit).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", LOG_WIDTHS)
def test_softmax_of_special_rows_is_pytorchs(n: int, dtype: str) -> None:
    x = tl.Input((n,), dtype=dtype)
    model = tl.compile(tl.Model(x, [tl.Activation(name)(x) for name in OVER_LAST_AXIS]))
    base = np.random.default_rng(0).standard_normal((1, n))
    rows = [np.full((1, n), value) for value in (np.inf, -np.inf, np.nan, 1e30, -1e30, 0.0)]
    for value in (np.inf, -np.inf, np.nan, 1e30, -1e30):
        special = base.copy()
        special[0, n // 2] = value
        rows.append(special)
    given = np.concatenate(rows).astype(dtype)
    eps = np.finfo(dtype).eps
    for name, result in zip(OVER_LAST_AXIS, model(given), strict=True):
        wanted = getattr(torch, name)(torch.from_numpy(given), -1).numpy()
        np.testing.assert_allclose(result, wanted, rtol=16 * eps, atol=16 * eps, err_msg=name)
