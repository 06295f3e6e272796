"""How training looks while it runs: a bar an epoch on a terminal, a plain line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tvmlayers.errors import ConfigError
from tvmlayers.printing import PlainConsole, printable
from tvmlayers.training.callbacks.base import Callback, Logs

_SECONDS = 0.1  # between two pictures of a bar


def display(verbose: object, console: PlainConsole | None = None) -> list[Callback]:
    """The callbacks that show what `verbose` asks for; none where that is 0."""
    if verbose not in ("auto", 0, 1, 2):
        raise ConfigError(f"verbose expected 'auto', 0, 1 or 2, got {verbose!r}")
    if not verbose:
        return []
    console = console or PlainConsole()
    return [Bars(console) if verbose != 2 and console.is_terminal else Lines(console)]


class Lines(Callback):
    """A line at the end of each epoch, and of an evaluation."""

    def __init__(self, console: PlainConsole) -> None:
        self._console = console

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._is_training = True

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        taken = time.perf_counter() - self._begin
        self._print(f"Epoch {epoch + 1}/{self.params['epochs']}: {told(logs)}, {taken:.1f} s")

    def on_test_end(self, logs: Logs | None = None) -> None:
        if not self._is_training:
            self._print(told(logs))

    _is_training = False

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)


class Bars(Callback):
    """A bar for each epoch, for an evaluation and for predictions."""

    def __init__(self, console: PlainConsole) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._is_training = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._is_training = True

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._start(f"Epoch {epoch + 1}/{self.params['epochs']}")

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._move(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.stop(logs)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        if not self._is_training:
            self._start("Evaluate")

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if not self._is_training:
            self._move(batch, logs)

    def on_test_end(self, logs: Logs | None = None) -> None:
        if not self._is_training:
            self.stop(logs)

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        self._start("Predict")

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._move(batch, None)

    def on_predict_end(self, logs: Logs | None = None) -> None:
        self.stop(None)

    def _start(self, name: str) -> None:
        self.stop(None)
        # No refreshing thread: it would take time from the steps.
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=False,
        )
        self._bars.start()
        self._task = self._bars.add_task(name, total=self.params["steps"], said="")
        self._shown = 0.0

    def _move(self, batch: int, logs: Logs | None) -> None:
        now = time.perf_counter()
        if self._bars is None or now - self._shown < _SECONDS:
            return
        self._shown = now
        self._show(logs, completed=batch + 1)

    def _show(self, logs: Logs | None, **fields: Any) -> None:
        assert self._bars is not None
        self._bars.update(self._task, said=printable(told(logs)), refresh=True, **fields)

    def stop(self, logs: Logs | None) -> None:
        """End the bar at hand, full where the logs of an end have come."""
        if self._bars is None:
            return
        if logs is not None:
            steps = self._bars.tasks[self._task].total
            self._show(logs, **({} if steps is None else {"completed": steps}))
        self._bars.stop()
        self._bars = None


def close(shown: Sequence[Callback]) -> None:
    """Leave the terminal as it was, after an error too."""
    for callback in shown:
        if isinstance(callback, Bars):
            callback.stop(None)


def told(logs: Logs | None) -> str:
    """Logs as a line: "loss 0.4123, accuracy 0.8571"."""
    return ", ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items())
