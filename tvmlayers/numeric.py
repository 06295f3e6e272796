"""Numbers among arguments: Python's and NumPy's alike, and bool is none."""

from __future__ import annotations

import operator
from numbers import Integral, Real
from typing import Any

import numpy as np

from tvmlayers.errors import ConfigError


def whole(owner: str, argument: str, value: object) -> int:
    """value as an int; ConfigError when it is not a whole number (True and 3.0 are not)."""
    try:
        if not isinstance(value, bool | np.bool_):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise ConfigError(f"{owner} expected a whole number for {argument}, got {value!r}")


def positive(owner: str, argument: str, value: object) -> int:
    """value as an int of at least 1."""
    number = whole(owner, argument, value)
    if number < 1:
        raise ConfigError(f"{owner} expected {argument} of at least 1, got {number}")
    return number


def not_negative(owner: str, argument: str, value: object) -> int:
    """value as an int of at least 0."""
    number = whole(owner, argument, value)
    if number < 0:
        raise ConfigError(f"{owner} expected {argument} of at least 0, got {number}")
    return number


def real(owner: str, argument: str, value: object) -> float:
    """value as a float; ConfigError when it is no real number, or beyond all floats."""
    try:
        if isinstance(value, Real) and not isinstance(value, bool):
            return float(value)
    except OverflowError:
        pass
    raise ConfigError(f"{owner} expected a number for {argument}, got {value!r}")


def sizes(owner: str, argument: str, value: Any) -> tuple[Any, ...]:
    """The sizes in value, which is a sequence of them or a single one; none is checked yet."""
    try:
        return (value,) if isinstance(value, Integral) else tuple(value)
    except TypeError:
        raise ConfigError(f"{owner} expected a sequence for {argument}, got {value!r}") from None


def not_negative_real(owner: str, argument: str, value: object) -> float:
    """value as a finite float of at least 0."""
    number = real(owner, argument, value)
    if not 0 <= number < float("inf"):
        raise ConfigError(f"{owner} expected a finite {argument} of at least 0, got {value!r}")
    return number


def whole_numbers(owner: str, argument: str, value: object) -> tuple[int, ...]:
    """The whole numbers in value, which is one of them or a sequence of at least one."""
    given = tuple(value) if isinstance(value, list | tuple | np.ndarray) else (value,)
    if not given:
        raise ConfigError(f"{owner} expected at least one number for {argument}, got {value!r}")
    return tuple(whole(owner, argument, number) for number in given)
