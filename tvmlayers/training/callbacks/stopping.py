"""Callbacks that end a training."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvmlayers.numeric import not_negative
from tvmlayers.training.callbacks.base import Callback, Logs, say
from tvmlayers.training.callbacks.monitor import Monitor, is_finite


class EarlyStopping(Monitor):
    """Stops after `patience` epochs without an improvement.

    baseline: a value to beat before an improvement counts; start_from_epoch: epochs before it are
    not looked at; restore_best_weights: at the end the model takes the weights of the best epoch.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience = not_negative(self.kind, "patience", patience)
        self.verbose, self.baseline = verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self.best, self.wait, self.stopped_epoch, self.best_epoch = None, 0, 0, 0
        self.best_weights: list[Any] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self.current(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._keep(epoch)
        self.wait += 1
        if self.is_better(value, self.best):
            self.best = value
            self._keep(epoch)
            if self.baseline is None or self.is_better(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch and self.verbose:
            say(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)
            if self.verbose:
                say(f"The weights are those of epoch {self.best_epoch + 1}, the best one")

    def _keep(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            self.best_weights = self.model.get_weights()

    def get_state(self) -> dict[str, Any]:
        kept = {f"best/{i}": weight for i, weight in enumerate(self.best_weights or [])}
        names = ("wait", "best_epoch", "stopped_epoch")
        state = {name: getattr(self, name) for name in names}
        return {**super().get_state(), **state, **kept}

    def set_state(self, state: dict[str, Any]) -> None:
        arrays = [value for value in state.values() if isinstance(value, np.ndarray)]
        self.best_weights = arrays or None
        super().set_state({k: v for k, v in state.items() if not isinstance(v, np.ndarray)})


class TerminateOnNaN(Callback):
    """Stops where the loss is NaN or infinite, and says at which step, and which layer is the first
    whose weights are so."""

    said: str | None = None
    """What it said; None where nothing was wrong."""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.said = None
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if is_finite((logs or {}).get("loss")):
            return
        self.said = (
            f"Step {self.step.iterations} (epoch {self._epoch + 1}, batch {batch}): the loss is "
            f"not finite, training stops. {self._first_layer()}"
        )
        say(self.said)
        self.model.stop_training = True

    def _first_layer(self) -> str:
        weights = self.step.weights()
        for name in self.model.weights:
            wrong = ~np.isfinite(weights.get(name, 0))
            if wrong.any():
                layer, _, weight = name.rpartition("/")
                return (
                    f"The first layer with weights that are not finite is {layer!r}: "
                    f"{int(wrong.sum())} of the {wrong.size} numbers of its {weight}"
                )
        return "All weights are finite: look for NaN or infinities in x, y and sample_weight"
