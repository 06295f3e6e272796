"""Callbacks that change the learning rate."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tvmlayers.errors import ConfigError
from tvmlayers.numeric import not_negative_real, positive, real
from tvmlayers.training.callbacks.base import Callback, Logs, say
from tvmlayers.training.callbacks.monitor import Monitor


class LearningRateScheduler(Callback):
    """Asks schedule(epoch, learning_rate), or schedule(epoch), for the rate of each epoch."""

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        if not callable(schedule):
            raise ConfigError(
                f"LearningRateScheduler expected a function of (epoch, rate), got {schedule!r}"
            )
        self.schedule, self.verbose = schedule, verbose
        try:
            inspect.signature(schedule).bind(0, 0.1)
            self._takes_rate = True
        except TypeError:
            self._takes_rate = False

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        given = (epoch, self.step.learning_rate) if self._takes_rate else (epoch,)
        rate = real("LearningRateScheduler", "the rate", self.schedule(*given))
        self.step.learning_rate = rate
        if self.verbose:
            say(f"Epoch {epoch + 1}: the learning rate is {rate:.6g}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self.step.learning_rate


class ReduceLROnPlateau(Monitor):
    """Multiplies the learning rate by `factor` after `patience` epochs without an improvement.

    cooldown: epochs to wait after that; min_lr: the rate never gets below.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.factor = not_negative_real(self.kind, "factor", factor)
        if self.factor >= 1:
            raise ConfigError(f"{self.kind} expected a factor below 1, got {factor!r}")
        self.patience = positive(self.kind, "patience", max(patience, 1))
        self.verbose, self.cooldown = verbose, cooldown
        self.min_lr = not_negative_real(self.kind, "min_lr", min_lr)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self.best, self.wait, self.cooldown_counter = None, 0, 0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self.step.learning_rate
        value = self.current(logs)
        if value is None:
            return
        if self.cooldown_counter:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.is_better(value, self.best):
            self.best, self.wait = value, 0
        elif not self.cooldown_counter:
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce(epoch)

    def _reduce(self, epoch: int) -> None:
        before = self.step.learning_rate
        if before <= self.min_lr:
            return
        self.step.learning_rate = max(before * self.factor, self.min_lr)
        self.cooldown_counter, self.wait = self.cooldown, 0
        if self.verbose:
            say(
                f"Epoch {epoch + 1}: the learning rate is {self.step.learning_rate:.6g} from now on"
            )

    def get_state(self) -> dict[str, Any]:
        state = {"wait": self.wait, "cooldown_counter": self.cooldown_counter}
        return {**super().get_state(), **state}
