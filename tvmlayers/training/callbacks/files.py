"""Callbacks that write files."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from tvmlayers.errors import ConfigError
from tvmlayers.numeric import positive
from tvmlayers.training.callbacks.base import Callback, Logs, say
from tvmlayers.training.callbacks.monitor import Monitor


class ModelCheckpoint(Monitor):
    """Saves the model after each epoch, whole or not at all: what was there stays until then.

    filepath: may hold {epoch} and keys of the logs, as "{epoch:02d}-{val_loss:.3f}.safetensors".
    save_best_only: only where the monitored number improves; initial_value_threshold: what it has
    to beat at first. save_weights_only: as `save_weights`, else as `save`. save_freq: "epoch", or a
    number of batches. `tl.load_model` and `load_weights` read what it writes; BackupAndRestore
    keeps the optimiser's state too.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only
        self.save_freq = (
            save_freq if save_freq == "epoch" else positive(self.kind, "save_freq", save_freq)
        )
        self.best = initial_value_threshold
        self._epoch = self._batches = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self.save_best_only:
            super().on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            return
        self._batches += 1
        if self._batches % int(self.save_freq) == 0:
            self.step.update_model()
            self._save(logs or {}, batch=batch + 1)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            self._save(logs or {})

    def _save(self, logs: Logs, **names: Any) -> None:
        if self.save_best_only:
            value = self.current(logs)
            if value is None or not self.is_better(value, self.best):
                return
            self.best = value
        try:
            path = self.filepath.format(epoch=self._epoch + 1, **names, **logs)
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigError(
                f"{self.kind} cannot make a name of {self.filepath!r} ({error}): it may hold "
                f"{{epoch}} and {sorted(logs)}"
            ) from error
        (self.model.save_weights if self.save_weights_only else self.model.save)(path)
        if self.verbose:
            say(f"Epoch {self._epoch + 1}: the model is saved to {path}")


class CSVLogger(Callback):
    """Writes a line an epoch: the epoch and all numbers of its logs, "NA" where one is missing.

    append: go on with a file that is there, as after a killed run.
    """

    def __init__(
        self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False
    ) -> None:
        self.path, self.separator, self.append = Path(filename), separator, append
        self._keys: list[str] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._keys = None
        if self.append and self.path.exists() and self.path.stat().st_size:
            with self.path.open(newline="") as file:
                _, *self._keys = next(csv.reader(file, delimiter=self.separator))
        else:
            self.path.write_text("")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        known = logs or {}
        # Opened for each line: an interrupted run leaves whole lines, and no open file.
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, delimiter=self.separator)
            if self._keys is None:
                others = [key for key in self.params["metrics"] if key not in known]
                self._keys = sorted([*known, *others])
                writer.writerow(["epoch", *self._keys])
            writer.writerow([epoch, *(known.get(key, "NA") for key in self._keys)])
