"""A run that goes on where it was killed, bit by bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from tvmlayers.errors import ConfigError, WeightsError
from tvmlayers.files import saving
from tvmlayers.safetensors_file import chunks
from tvmlayers.safetensors_file import read as read_arrays
from tvmlayers.training.callbacks.base import Callback, CallbackList, Logs

_FORMAT = "tvmlayers.fit"


class BackupAndRestore(Callback):
    """Keeps a run in a folder after each epoch; the same call of `fit` goes on from there.

    Kept are the weights, the optimiser's state, the number of the epoch, the seed of the shuffling,
    the learning rate, the history and the states of the other callbacks. Batches that a generator
    makes follow from its own state, which is not kept. delete_checkpoint: remove them when `fit`
    ends by itself. WeightsError and ConfigError for what another run left, before anything moves.
    """

    comes_last = True

    def __init__(self, backup_dir: str | os.PathLike[str], delete_checkpoint: bool = True) -> None:
        self.folder, self.delete_checkpoint = Path(backup_dir), delete_checkpoint
        self._others: list[Callback] = []

    def set_callbacks(self, callbacks: CallbackList) -> None:
        """Called once: of these the states are kept, where they have some."""
        self._others = callbacks.listening("get_state")

    @property
    def _index(self) -> Path:
        return self.folder / "run.json"

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if not self._index.exists():
            return
        try:
            found = json.loads(self._index.read_text())
            run = found if found["format"] == _FORMAT else None
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{self._index} is damaged: {error}; remove the folder") from error
        if run is None:
            raise WeightsError(f"{self._index} is of no run of fit; name another folder")
        kinds = [type(each).__name__ for each in self._others]
        if [kind for kind, _ in run["callbacks"]] != kinds:
            raise ConfigError(
                f"the run in {self.folder} has the callbacks "
                f"{[kind for kind, _ in run['callbacks']]}, and this one has {kinds}: go on with "
                "the same, or remove the folder"
            )
        arrays = self._arrays(run["epoch"])
        self.step.load(self.folder / _step_name(run["epoch"]))
        if self.step.learning_rate != run["learning_rate"]:
            self.step.learning_rate = run["learning_rate"]
        self.step.update_model()
        for place, (callback, (_, state)) in enumerate(
            zip(self._others, run["callbacks"], strict=True)
        ):
            prefix = f"{place}:"
            own = {
                name.removeprefix(prefix): array
                for name, array in arrays.items()
                if name.startswith(prefix)
            }
            callback.set_state({**state, **own})
        self.model.stop_training = run["stopped"]
        self.params.update(initial_epoch=run["epoch"], seed=run["seed"])

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        done = epoch + 1
        states = [each.get_state() for each in self._others]
        arrays = {
            f"{place}:{name}": value
            for place, state in enumerate(states)
            for name, value in state.items()
            if isinstance(value, np.ndarray)
        }
        self.step.save(self.folder / _step_name(done))
        if arrays:
            with saving(self.folder / _arrays_name(done)) as file:
                for chunk in chunks(arrays):
                    file.write(chunk)
        run: dict[str, Any] = {
            "format": _FORMAT,
            "epoch": done,
            "seed": self.params["seed"],
            "learning_rate": self.step.learning_rate,
            "stopped": self.model.stop_training,
            "callbacks": [
                (type(each).__name__, {k: v for k, v in state.items() if not _is_array(v)})
                for each, state in zip(self._others, states, strict=True)
            ],
        }
        # Last, in one go: until then the run before is the one that is kept.
        with saving(self._index) as file:
            file.write(json.dumps(run).encode())
        self._remove(keep=(_step_name(done), _arrays_name(done)))

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.delete_checkpoint:
            self._index.unlink(missing_ok=True)
            self._remove(keep=())

    def _arrays(self, epoch: int) -> dict[str, Any]:
        path = self.folder / _arrays_name(epoch)
        return read_arrays(path)[0] if path.exists() else {}

    def _remove(self, keep: tuple[str, ...]) -> None:
        for pattern in (_step_name("*"), _arrays_name("*")):
            for path in self.folder.glob(pattern):
                if path.name not in keep:
                    path.unlink(missing_ok=True)


def _step_name(epoch: object) -> str:
    return f"step-{epoch}.safetensors"


def _arrays_name(epoch: object) -> str:
    return f"callbacks-{epoch}.safetensors"


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray)
