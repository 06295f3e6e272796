"""Initialisers with Keras's names, defaults and distributions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from math import prod, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvmlayers.dtypes import wide
from tvmlayers.errors import ConfigError, WeightsError, unknown_name
from tvmlayers.layers.checks import checked_seed, one_of
from tvmlayers.numeric import real

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, ...]

# The standard deviation of a unit normal cut at two standard deviations.
_CUT_STDDEV = 0.87962566103423978


@dataclass(frozen=True)
class Initializer:
    """Makes the first values of a weight; without a seed it draws from the layer's generator."""

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for argument, value in asdict(self).items():
            if argument not in ("mode", "distribution"):
                is_seed = argument == "seed"
                number = checked_seed(owner, value) if is_seed else real(owner, argument, value)
                object.__setattr__(self, argument, number)  # Python's own, for the configuration

    def values(self, shape: Shape, dtype: str, rng: np.random.Generator) -> Array:
        """An array of this shape and dtype."""
        raise NotImplementedError

    def __call__(self, shape: Shape, dtype: str = "float32") -> Array:
        return initialise(self, shape, dtype, np.random.default_rng())


InitializerLike: TypeAlias = str | Initializer | Mapping[str, Any] | Callable[..., Any]


@dataclass(frozen=True)
class Constant(Initializer):
    value: float = 0.0

    def values(self, shape: Shape, dtype: str, rng: np.random.Generator) -> Array:
        return np.full(shape, self.value, dtype)


@dataclass(frozen=True)
class Zeros(Initializer):
    def values(self, shape: Shape, dtype: str, rng: np.random.Generator) -> Array:
        return np.zeros(shape, dtype)


@dataclass(frozen=True)
class Ones(Initializer):
    def values(self, shape: Shape, dtype: str, rng: np.random.Generator) -> Array:
        return np.ones(shape, dtype)


@dataclass(frozen=True)
class RandomUniform(Initializer):
    minval: float = -0.05
    maxval: float = 0.05
    seed: int | None = None

    def values(self, shape: Shape, dtype: str, rng: np.random.Generator) -> Array:
        return _uniform(shape, dtype, rng, self.minval, self.maxval)


@dataclass(frozen=True)
class RandomNormal(Initializer):
    mean: float = 0.0
    stddev: float = 0.05
    seed: int | None = None

    def values(self, shape: Shape, dtype: str, rng: np.random.Generator) -> Array:
        drawn = _normal(shape, dtype, rng)
        drawn *= drawn.dtype.type(self.stddev)
        drawn += drawn.dtype.type(self.mean)
        return drawn


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    mean: float = 0.0
    stddev: float = 0.05
    seed: int | None = None

    def values(self, shape: Shape, dtype: str, rng: np.random.Generator) -> Array:
        drawn = _cut_normal(shape, dtype, rng)
        drawn *= drawn.dtype.type(self.stddev)
        drawn += drawn.dtype.type(self.mean)
        return drawn


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scale > 0:
            raise ConfigError(f"VarianceScaling expected a scale above 0, got {self.scale}")
        one_of("fan mode", self.mode, ("fan_in", "fan_out", "fan_avg"))
        known = ("truncated_normal", "untruncated_normal", "uniform")
        one_of("distribution", self.distribution, known)

    def values(self, shape: Shape, dtype: str, rng: np.random.Generator) -> Array:
        # A kernel is (in, out); a vector feeds and is fed by all of its elements.
        fan_in, fan_out = (prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (shape[0],) * 2
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, fan)
        if self.distribution == "uniform":
            limit = sqrt(3 * variance)
            return _uniform(shape, dtype, rng, -limit, limit)
        if self.distribution == "truncated_normal":
            stddev = sqrt(variance) / _CUT_STDDEV
            return TruncatedNormal(stddev=stddev).values(shape, dtype, rng)
        return RandomNormal(stddev=sqrt(variance)).values(shape, dtype, rng)


@dataclass(frozen=True)
class Orthogonal(Initializer):
    gain: float = 1.0
    seed: int | None = None

    def values(self, shape: Shape, dtype: str, rng: np.random.Generator) -> Array:
        if len(shape) < 2:
            raise WeightsError(f"orthogonal needs a weight of rank 2 or more, got shape {shape}")
        rows, columns = prod(shape[:-1]), shape[-1]
        drawn = rng.standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(drawn)
        q *= np.sign(np.diag(r))  # makes the decomposition, hence the draw, unique
        return np.asarray(self.gain * (q if rows >= columns else q.T), dtype).reshape(shape)


@dataclass(frozen=True)
class Identity(Initializer):
    gain: float = 1.0

    def values(self, shape: Shape, dtype: str, rng: np.random.Generator) -> Array:
        if len(shape) != 2:
            raise WeightsError(f"identity needs a weight of rank 2, got shape {shape}")
        return self.gain * np.eye(*shape, dtype=dtype)


GlorotUniform = partial(VarianceScaling, 1.0, "fan_avg", "uniform")
GlorotNormal = partial(VarianceScaling, 1.0, "fan_avg", "truncated_normal")
HeUniform = partial(VarianceScaling, 2.0, "fan_in", "uniform")
HeNormal = partial(VarianceScaling, 2.0, "fan_in", "truncated_normal")
LecunUniform = partial(VarianceScaling, 1.0, "fan_in", "uniform")
LecunNormal = partial(VarianceScaling, 1.0, "fan_in", "truncated_normal")

INITIALIZERS: dict[str, Initializer] = {
    "zeros": Zeros(),
    "ones": Ones(),
    "constant": Constant(),
    "uniform": RandomUniform(),
    "random_uniform": RandomUniform(),
    "normal": RandomNormal(),
    "random_normal": RandomNormal(),
    "truncated_normal": TruncatedNormal(),
    "variance_scaling": VarianceScaling(),
    "glorot_uniform": GlorotUniform(),
    "glorot_normal": GlorotNormal(),
    "he_uniform": HeUniform(),
    "he_normal": HeNormal(),
    "lecun_uniform": LecunUniform(),
    "lecun_normal": LecunNormal(),
    "orthogonal": Orthogonal(),
    "identity": Identity(),
}

_CLASSES: dict[str, type[Initializer]] = {type(i).__name__: type(i) for i in INITIALIZERS.values()}


def get(initializer: InitializerLike) -> Initializer | Callable[..., Any]:
    """The initialiser that a name, a config, an object or a callable(shape, dtype) means."""
    if isinstance(initializer, str):
        if initializer not in INITIALIZERS:
            raise unknown_name("initializer", initializer, INITIALIZERS)
        return INITIALIZERS[initializer]
    if isinstance(initializer, Mapping):
        if "callable" in initializer:
            raise ConfigError(
                f"initializer {initializer['callable']!r} was a Python callable, which a saved "
                "configuration cannot hold; use a named initializer"
            )
        fields = dict(initializer)
        name = fields.pop("class", None)
        if not isinstance(name, str) or name not in _CLASSES:
            raise unknown_name("initializer class", name, _CLASSES)
        try:
            return _CLASSES[name](**fields)
        except TypeError as error:
            raise ConfigError(f"initializer {name} cannot be made from {fields}: {error}") from None
    if isinstance(initializer, type) and issubclass(initializer, Initializer):
        return initializer()
    if callable(initializer):
        return initializer
    raise ConfigError(
        f"an initializer is a name, an object or a callable(shape, dtype), got {initializer!r}"
    )


def to_config(initializer: Initializer | Callable[..., Any]) -> str | dict[str, Any]:
    """A JSON-able form. A callable is only named by it: `get` refuses it."""
    if not isinstance(initializer, Initializer):
        named = getattr(initializer, "__qualname__", None) or type(initializer).__qualname__
        return {"callable": str(named)}
    for name, known in INITIALIZERS.items():
        if type(known) is type(initializer) and known == initializer:
            return name
    return {"class": type(initializer).__name__, **asdict(initializer)}


def initialise(
    initializer: Initializer | Callable[..., Any],
    shape: Shape,
    dtype: str,
    rng: np.random.Generator,
) -> Array:
    """A fresh array of this shape and dtype; WeightsError when a callable gives another shape."""
    if isinstance(initializer, Initializer):
        seed = getattr(initializer, "seed", None)
        rng = rng if seed is None else np.random.default_rng(seed)
        # Generators draw no halves: those are rounded float32.
        return initializer.values(shape, wide(dtype), rng).astype(dtype, copy=False)
    values = np.array(initializer(shape, dtype), dtype)
    if values.shape != shape:
        raise WeightsError(f"initializer callable gave shape {values.shape}, expected {shape}")
    return values


def _uniform(shape: Shape, dtype: str, rng: np.random.Generator, low: float, high: float) -> Array:
    # Drawn in the dtype itself: a large table never exists in float64 beside its float32 copy.
    drawn = _drawn(rng.random, shape, dtype)
    drawn *= drawn.dtype.type(high - low)
    drawn += drawn.dtype.type(low)
    return drawn


def _normal(shape: Shape, dtype: str, rng: np.random.Generator) -> Array:
    return _drawn(rng.standard_normal, shape, dtype)


def _cut_normal(shape: Shape, dtype: str, rng: np.random.Generator) -> Array:
    drawn = _normal(shape, dtype, rng)
    while (outside := np.abs(drawn) > 2).any():
        drawn[outside] = _normal((int(outside.sum()),), dtype, rng)
    return drawn


def _drawn(draw: Callable[..., Any], shape: Shape, dtype: str) -> Array:
    values: Array = draw(shape, dtype=dtype)
    return values
