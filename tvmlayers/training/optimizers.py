"""How weights follow their gradients: what a step is told, hardware and kernels unknown.

Formulas and defaults are those of `torch.optim`, under Keras's names of the arguments; docstrings
say where the two differ. The learning rate is a number of the optimiser, and a step may be given
another with each call. The formulas as tensor expressions are in `expr.optimizers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from tvmlayers.errors import ConfigError, unknown_name
from tvmlayers.numeric import not_negative_real

_LIMITS = ("clipvalue", "clipnorm", "global_clipnorm")


@dataclass(frozen=True)
class Optimizer:
    """What all optimisers share.

    learning_rate: at least 0; weight_decay: this times the weight is added to its gradient;
    clipvalue: each number of a gradient is kept within plus and minus this; clipnorm: the norm of
    the gradient of each weight is at most this, and global_clipnorm that of all gradients together:
    g * limit / max(norm, limit), as in Keras, before any decay. None for no limit, one of them at
    most.
    """

    learning_rate: float = 0.01
    weight_decay: float = 0.0
    clipvalue: float | None = None
    clipnorm: float | None = field(default=None, kw_only=True)
    global_clipnorm: float | None = field(default=None, kw_only=True)

    slots: ClassVar[tuple[str, ...]] = ()
    """State of the shape of the weight, by name."""
    row_slots: ClassVar[tuple[str, ...]] = ()
    """Those of them, the last ones, that have one number for each row of a table."""
    lazy: ClassVar[bool] = False
    """Rows of a table that no index names stay as they are, though the formula moves them."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None or isinstance(value, bool):
                continue
            number = not_negative_real(type(self).__name__, each.name, value)
            object.__setattr__(self, each.name, number)

        limits = [name for name in _LIMITS if getattr(self, name) is not None]
        if len(limits) > 1:
            raise ConfigError(f"{self.kind} expected one limit of gradients, got {limits}")
        for name in limits[:1]:
            if name != "clipvalue" and not getattr(self, name):
                raise ConfigError(f"{self.kind} expected {name} above 0, got 0: no weight moves")

    @property
    def kind(self) -> str:
        """The name of its class."""
        return type(self).__name__

    @property
    def clips(self) -> bool:
        """Whether gradients have a limit."""
        return any(getattr(self, name) is not None for name in _LIMITS)

    @property
    def state(self) -> tuple[str, ...]:
        """The names of the states of a weight's shape that it keeps with its arguments."""
        return self.slots

    def state_shapes(self, table: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The shapes of the states of a table (rows, columns), by name."""
        return {name: table[:1] if name in self.row_slots else table for name in self.state}

    @property
    def moves_unused(self) -> bool:
        """Whether a weight moves, or its state does, where its gradient is zero."""
        return bool(self.weight_decay)

    def get_config(self) -> dict[str, Any]:
        """The JSON-able arguments that make it again, and its class."""
        return {"class_name": self.kind, **asdict(self)}


@dataclass(frozen=True)
class SGD(Optimizer):
    """w -= learning_rate * g; with momentum v = momentum * v + g and w -= learning_rate * v.

    nesterov: w -= learning_rate * (g + momentum * v). As `torch.optim.SGD`. Keras multiplies g by
    the learning rate before it adds it to v: the same as long as the rate does not change.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise ConfigError("SGD with nesterov=True expected a momentum above 0, got 0")

    @property
    def state(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    @property
    def moves_unused(self) -> bool:
        return bool(self.momentum or self.weight_decay)


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """a += g^2; w -= learning_rate * g / (sqrt(a) + epsilon). As `torch.optim.Adagrad`.

    a begins with initial_accumulator_value; Keras begins with 0.1 and has epsilon 1e-7.
    """

    initial_accumulator_value: float = 0.0
    epsilon: float = 1e-10
    slots: ClassVar[tuple[str, ...]] = ("accumulator",)


@dataclass(frozen=True)
class RowwiseAdagrad(Adagrad):
    """Adagrad with one accumulator for each row of a table: a += mean of g^2 over the row.

    As FBGEMM's `EXACT_ROWWISE_ADAGRAD`. It is for tables; other weights follow `Adagrad`. It takes
    no weight_decay and no limit of gradients.
    """

    epsilon: float = 1e-8
    row_slots: ClassVar[tuple[str, ...]] = ("accumulator",)

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_limits(self, "Adagrad")


@dataclass(frozen=True)
class Adam(Optimizer):
    """m = beta_1 m + (1 - beta_1) g; v = beta_2 v + (1 - beta_2) g^2;
    w -= learning_rate * m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon), t = 1, 2, ...

    As `torch.optim.Adam`. All rows of a table move with every step; `LazyAdam` leaves those alone
    that no index names. Keras has epsilon 1e-7 and adds it before the correction of v.
    """

    learning_rate: float = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    slots: ClassVar[tuple[str, ...]] = ("m", "v")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta_1", "beta_2"):
            if getattr(self, name) >= 1:
                raise ConfigError(
                    f"{self.kind} expected {name} in 0..1, 1 excluded, got {getattr(self, name)}"
                )

    @property
    def moves_unused(self) -> bool:
        return True


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with w *= 1 - learning_rate * weight_decay before. As `torch.optim.AdamW`.

    Keras's weight_decay is 0.004 where it is left out.
    """

    weight_decay: float = 0.01


@dataclass(frozen=True)
class LazyAdam(Adam):
    """Adam that moves only those rows of a table that an index names. As `torch.optim.SparseAdam`,
    which adds epsilon before the correction of v; other weights follow `Adam`."""

    lazy: ClassVar[bool] = True


@dataclass(frozen=True)
class RowwiseAdam(Adam):
    """Adam with one v for each row of a table, which follows the mean of g^2 over the row; only
    rows that an index names move.

    As FBGEMM's `PARTIAL_ROWWISE_ADAM`. It is for tables, whose states take half of the memory of
    `Adam`'s; other weights follow `Adam`. It takes no weight_decay and no limit of gradients.
    """

    row_slots: ClassVar[tuple[str, ...]] = ("v",)
    lazy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_limits(self, "LazyAdam")


def _refuse_limits(optimizer: Optimizer, instead: str) -> None:
    if optimizer.weight_decay or optimizer.clips:
        raise ConfigError(
            f"{optimizer.kind} expected no weight_decay and no limit of gradients: take "
            f"tl.optimizers.{instead}, which has both"
        )


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "rowwise_adagrad": RowwiseAdagrad,
    "adam": Adam,
    "adamw": AdamW,
    "lazy_adam": LazyAdam,
    "rowwise_adam": RowwiseAdam,
}


def get(optimizer: object) -> Optimizer:
    """The optimiser that a name such as "adam" stands for, or the object itself.

    UnknownNameError for another name, ConfigError for what is no optimiser.
    """
    if isinstance(optimizer, Optimizer):
        if type(optimizer) is Optimizer:
            raise ConfigError("Optimizer itself has no formula: take one such as tl.optimizers.SGD")
        return optimizer
    if not isinstance(optimizer, str):
        raise ConfigError(
            "optimizer expected an object of tl.optimizers or a name such as 'adam', got "
            f"{type(optimizer).__name__}"
        )
    if optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", optimizer, OPTIMIZERS)
    return OPTIMIZERS[optimizer]()


def from_config(config: Mapping[str, Any]) -> Optimizer:
    """The optimiser that `get_config` described; ConfigError for what describes none."""
    classes = {made.__name__: made for made in OPTIMIZERS.values()}
    arguments = {name: value for name, value in config.items() if name != "class_name"}
    try:
        return classes[config["class_name"]](**arguments)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"no optimiser has the configuration {dict(config)}: {error}") from error
