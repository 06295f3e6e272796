"""`python -m bench.accuracy`: rounding errors of compiled layers beside PyTorch's, as Markdown.

Activations: the largest error in ulp, the distance of two neighbouring numbers at the exact result,
where that is 0 or a normal number.
In float32 the exact result is a float64 evaluation that is stable in the tails too, in float64 one
of mpmath with 50 digits. Sums: the root mean square of the error over that of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mpmath
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

import tvmlayers as tl
from tvmlayers.layers.activations import NAMES, OVER_LAST_AXIS
from tvmlayers.testing.activations import steps
from tvmlayers.testing.bounds import Bounded, Rounding

Array = NDArray[Any]

ELEMENTWISE = tuple(name for name in NAMES if name not in OVER_LAST_AXIS)
USUAL = 5.0  # the numbers that most activations see in a model
MOST_WITH_DIGITS = 1000.0  # the powers of larger ones have exponents that mpmath takes long for
LENGTHS = (64, 256, 1024, 4096, 16384, 100_000)
ROWS = (1, 4, 64)  # PyTorch's linear computes them in three ways
_OTHER_NAMES = {"hard_sigmoid": "hardsigmoid", "hard_silu": "hardswish"}


def points(dtype: str, a_binade: int = 256, near: int = 200_000) -> Array:
    """Numbers of both signs and every exponent, so many in each binade, with subnormal ones, and
    `near` more evenly up to 16 and up to 110."""
    info = np.finfo(dtype)
    binades = np.arange(info.minexp, info.maxexp)
    fractions = np.concatenate([np.arange(a_binade) / a_binade, [1 - float(info.eps)]])
    normal = np.ldexp(1 + fractions, binades[:, None]).ravel()
    subnormal = info.smallest_subnormal * np.arange(1, 200)
    even = [np.linspace(0, end, near) for end in (16, 110)]
    values = np.concatenate([normal, subnormal, *even]).astype(dtype)
    return np.unique(np.concatenate([-values, values]))


def ulps(got: Array, exact: Array) -> Array:
    """The error of each number in ulp; inf where one is NaN or infinite and the other is not, 0
    where the exact result is subnormal."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(got.dtype)
        unit = np.spacing(np.minimum(np.abs(rounded), np.finfo(got.dtype).max))
        error = np.abs((got.astype(exact.dtype) - exact) / unit.astype(exact.dtype))
    uncounted = (exact != 0) & (np.abs(exact) < np.finfo(got.dtype).tiny)
    error = np.where(uncounted | ((got == rounded) & ~np.isfinite(error)), 0, error)
    return np.where(np.isnan(error), np.inf, error).astype(np.float64)


def exact(name: str, x: Array) -> Array:
    """The activation of float32 numbers, in float64."""
    value = Bounded.exact(torch.from_numpy(x.astype(np.float64)))
    return np.asarray(steps()[name](value, Rounding.of("float64")).value.numpy())


def _relu6(x: Any) -> Any:
    return min(max(x, mpmath.mpf(0)), mpmath.mpf(6))


def _elu(x: Any) -> Any:
    return x if x > 0 else mpmath.expm1(x)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


def _softplus(x: Any) -> Any:
    return mpmath.log1p(mpmath.exp(x))


def _selu(x: Any) -> Any:
    scale = mpmath.mpf("1.0507009873554804934193349852946")
    alpha = mpmath.mpf("1.6732632423543772848170429916717")
    return scale * (x if x > 0 else alpha * mpmath.expm1(x))


def _gelu_tanh(x: Any) -> Any:
    return x * _sigmoid(mpmath.sqrt(8 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))


WITH_DIGITS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda x: x,
    "relu": lambda x: max(x, mpmath.mpf(0)),
    "relu6": _relu6,
    "leaky_relu": lambda x: x if x > 0 else x * mpmath.mpf("0.2"),
    "elu": _elu,
    "selu": _selu,
    "gelu": lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
    "gelu_tanh": _gelu_tanh,
    "sigmoid": _sigmoid,
    "hard_sigmoid": lambda x: _relu6(x + 3) / 6,
    "tanh": mpmath.tanh,
    "silu": lambda x: x * _sigmoid(x),
    "hard_silu": lambda x: x * _relu6(x + 3) / 6,
    "softplus": _softplus,
    "softsign": lambda x: x / (1 + abs(x)),
    "mish": lambda x: x * mpmath.tanh(_softplus(x)),
    "exponential": mpmath.exp,
}


def exact_with_digits(name: str, x: Array) -> Array:
    """The activation of float64 numbers, in long double: of mpmath's 50 digits."""
    with mpmath.workdps(50):
        values = [WITH_DIGITS[name](mpmath.mpf(float(v))) for v in x]
        # long double has numbers from 1e-4932 to 1e4932
        shown = [mpmath.nstr(v, 25) if abs(v) > mpmath.mpf("1e-4000") else "0" for v in values]
    return np.array(shown).astype(np.longdouble)


def of_torch(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """PyTorch's own function."""
    if name == "linear":
        return lambda x: x
    if name == "leaky_relu":
        return partial(functional.leaky_relu, negative_slope=0.2)
    if name == "gelu_tanh":
        return partial(functional.gelu, approximate="tanh")
    if name == "exponential":
        return torch.exp
    if name in ("relu", "sigmoid", "tanh"):
        found: Callable[[torch.Tensor], torch.Tensor] = getattr(torch, name)
        return found
    found = getattr(functional, _OTHER_NAMES.get(name, name))
    return found


def compiled_activations(dtype: str, target: str = "native") -> Callable[[Array], dict[str, Array]]:
    """All elementwise activations of numbers (n,), by name."""
    x = tl.Input((1,), dtype=dtype)
    model = tl.compile(tl.Model(x, [tl.Activation(name)(x) for name in ELEMENTWISE]), target=target)
    return lambda values: {
        name: np.asarray(result)[:, 0]
        for name, result in zip(ELEMENTWISE, model(values[:, None]), strict=True)
    }


def activation_rows() -> Iterator[tuple[str, ...]]:
    few, many = points("float64", 1, 400), points("float32")
    few = few[np.abs(few) < MOST_WITH_DIGITS]
    narrow, wide = compiled_activations("float32")(many), compiled_activations("float64")(few)
    usual = np.abs(many) <= USUAL
    for name in ELEMENTWISE:
        wanted, digits = exact(name, many), exact_with_digits(name, few)
        ours = ulps(narrow[name], wanted)
        theirs = ulps(of_torch(name)(torch.from_numpy(many)).numpy(), wanted)
        doubles = (
            ulps(wide[name], digits),
            ulps(of_torch(name)(torch.from_numpy(few)).numpy(), digits),
        )
        worst = [each.max() for each in (ours[usual], theirs[usual], ours, theirs, *doubles)]
        yield name, *map(_short, worst)


def softmax_rows() -> Iterator[tuple[str, ...]]:
    """Errors in eps * max(1, |result|)."""
    rng = np.random.default_rng(0)
    kinds = {"normal": (1, 0), "ten times as large": (10, 0), "100,000 away from 0": (1, 1e5)}
    for n in (10, 1000, 32_000):
        x = tl.Input((n,))
        model = tl.compile(tl.Model(x, [tl.Activation(name)(x) for name in OVER_LAST_AXIS]))
        for kind, (scale, away) in kinds.items():
            rows = (rng.standard_normal((64, n)) * scale + away).astype(np.float32)
            given = torch.from_numpy(rows)
            for name, result in zip(OVER_LAST_AXIS, model(rows), strict=True):
                wanted = getattr(torch, name)(given.double(), -1).numpy()
                both = (result, getattr(torch, name)(given, -1).numpy())
                unit = np.finfo(np.float32).eps * np.maximum(1, np.abs(wanted))
                yield (
                    name,
                    f"{n:,}",
                    kind,
                    *(_short((np.abs(r - wanted) / unit).max()) for r in both),
                )


def sum_rows() -> Iterator[tuple[str, ...]]:
    rng = np.random.default_rng(0)
    pooling = tl.compile(tl.Sequential([tl.Input((None, 16)), tl.GlobalAveragePooling1D()]))
    for k in LENGTHS:
        layer = tl.Dense(64, input_dim=k, use_bias=False)
        kernel = rng.standard_normal((k, 64)).astype(np.float32)
        layer.set_weights([kernel])
        dense = tl.compile(layer)
        transposed = torch.from_numpy(np.ascontiguousarray(kernel.T))
        steps_of = rng.standard_normal((4, k, 16)).astype(np.float32)
        pooled = [
            _root_mean_square(result, steps_of.mean(1, dtype=np.float64))
            for result in (pooling(steps_of), torch.from_numpy(steps_of).mean(1).numpy())
        ]
        errors = []
        for rows in ROWS:
            x = rng.standard_normal((rows, k)).astype(np.float32)
            wanted = x.astype(np.float64) @ kernel.astype(np.float64)
            theirs = functional.linear(torch.from_numpy(x), transposed).numpy()
            errors += [_root_mean_square(result, wanted) for result in (dense(x), theirs)]
        yield f"{k:,}", *(f"{error:.1e}" for error in (*errors, *pooled))


def _root_mean_square(got: Array, wanted: Array) -> float:
    return float(np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2)))


def _short(error: float) -> str:
    return f"{error:.1f}" if error < 1000 else f"{error:.0e}"


def _print(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    for row in (head, ("---",) * len(head)):
        print("|", " | ".join(row), "|")
    for row in rows:
        print("|", " | ".join(row), "|", flush=True)
    print()


def main() -> None:
    near = f"float32, x within {USUAL:g}"
    kinds = (near, "float32, all x", f"float64, x within {MOST_WITH_DIGITS:,g}")
    _print(
        ("activation", *(f"{kind}: {side}" for kind in kinds for side in ("ours", "PyTorch"))),
        activation_rows(),
    )
    _print(("float32", "columns", "logits", "ours", "PyTorch"), softmax_rows())
    sums = (*(f"Dense of {rows} row{'s' * (rows > 1)}" for rows in ROWS), "GlobalAveragePooling1D")
    _print(("k", *(f"{kind}: {side}" for kind in sums for side in ("ours", "PyTorch"))), sum_rows())


if __name__ == "__main__":
    main()
