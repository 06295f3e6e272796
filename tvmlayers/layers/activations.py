"""The names of the activations; what they compute is in the expression stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from tvmlayers.errors import ConfigError, unknown_name

Activation: TypeAlias = str | Callable[[Any], Any]

NAMES = (
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "gelu_tanh",
    "sigmoid",
    "hard_sigmoid",
    "tanh",
    "silu",
    "hard_silu",
    "softplus",
    "softsign",
    "mish",
    "exponential",
    "softmax",
    "log_softmax",
)

ALIASES = {"swish": "silu", "hard_swish": "hard_silu"}

OVER_LAST_AXIS = ("softmax", "log_softmax")
"""Those that reduce over the last axis; all others work element by element."""


def canonical(activation: object) -> Activation:
    """The name without aliases ("linear" for None); a callable on a tensor expression as it is."""
    if activation is None:
        return "linear"
    if isinstance(activation, str):
        name = ALIASES.get(activation, activation)
        if name not in NAMES:
            raise unknown_name("activation", activation, (*NAMES, *ALIASES))
        return name
    if callable(activation):
        return activation
    if isinstance(activation, dict):
        raise ConfigError(
            f"activation {activation.get('callable')!r} was a Python callable, which a saved "
            "configuration cannot hold; use a named activation"
        )
    raise ConfigError(
        f"an activation is a name, a callable on a tensor expression or None, got {activation!r}"
    )


def label(activation: Activation) -> str:
    """A word for the activation, for tables and error messages."""
    return activation if isinstance(activation, str) else _callable_name(activation)


def to_config(activation: Activation) -> str | dict[str, str]:
    """A JSON-able form. A callable is only named by it: `canonical` refuses it."""
    return activation if isinstance(activation, str) else {"callable": _callable_name(activation)}


def _callable_name(function: Callable[[Any], Any]) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)
