"""Callbacks that follow one number of the logs."""

from __future__ import annotations

import math
from typing import Any

from tvmlayers.errors import ConfigError
from tvmlayers.numeric import real
from tvmlayers.training.callbacks.base import Callback, Logs


class Monitor(Callback):
    """What they share.

    monitor: a key of the logs, such as "val_loss". mode: "min" where less is better, "max" where
    more is; "auto" asks the metric. min_delta: a smaller change is no improvement.
    """

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        self.kind = type(self).__name__
        if mode not in ("auto", "min", "max"):
            raise ConfigError(f"{self.kind} expected mode 'auto', 'min' or 'max', got {mode!r}")
        self.monitor, self.mode = monitor, mode
        self.min_delta = abs(real(self.kind, "min_delta", min_delta))
        self.best: float | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """ConfigError where it is known that the number never comes."""
        known = self.params["metrics"]
        if self.monitor.startswith("val_") and not any(key.startswith("val_") for key in known):
            raise ConfigError(
                f"{self.kind} monitors {self.monitor!r} and fit got no validation data: pass "
                f"validation_data or validation_split, or monitor one of {known}"
            )
        self._sign = 1.0 if self._direction() == "max" else -1.0

    def _direction(self) -> str:
        if self.mode != "auto":
            return self.mode
        found: str | None = self.params["directions"].get(self.monitor.removeprefix("val_"))
        if found is None:
            raise ConfigError(
                f"{self.kind} cannot tell whether more or less of {self.monitor!r} is better: "
                "pass mode='min' or mode='max'"
            )
        return found

    def current(self, logs: Logs | None) -> float | None:
        """The number, None where this epoch has none; ConfigError where none will have it."""
        value = (logs or {}).get(self.monitor)
        if value is None and self.monitor not in self.params["metrics"]:
            raise ConfigError(
                f"{self.kind} monitors {self.monitor!r}, which is not in the logs: "
                f"{sorted(logs or {})}"
            )
        return None if value is None else float(value)

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether `value` improves on another by more than min_delta; None is no value yet."""
        return than is None or self._sign * value - self.min_delta > self._sign * than

    def get_state(self) -> dict[str, Any]:
        return {"best": self.best}

    def set_state(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def is_finite(value: object) -> bool:
    """Whether a number of the logs is neither NaN nor infinite."""
    return value is None or math.isfinite(float(value))  # type: ignore[arg-type]
