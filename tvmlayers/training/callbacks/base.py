"""The hooks of `fit`, `evaluate` and `predict`, those who listen, and the history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tvmlayers.errors import ConfigError

if TYPE_CHECKING:
    from tvmlayers.layers import Model
    from tvmlayers.training.step import TrainingStep

Logs = dict[str, Any]


class Callback:
    """The base of all callbacks: override the hooks that matter.

    model: the model at work; its layers have the weights of the step in hooks of epochs, and
    `self.step.weights()` has them in hooks of batches. params: "epochs", "steps" (of an epoch, None
    where that is not known), "verbose", "metrics" (the keys of logs), "seed". logs: what is known
    so far by name; a key that a hook adds at the end of an epoch goes into the history.
    """

    model: Model
    params: dict[str, Any]
    comes_last: ClassVar[bool] = False

    def set_model(self, model: Model) -> None:
        """Called once, before any hook."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called once, before any hook."""
        self.params = params

    @property
    def step(self) -> TrainingStep:
        """The compiled step, with its weights, states and learning rate."""
        step = self.model.training_step
        assert step is not None, "hooks of training run when there is a step"
        return step

    def get_state(self) -> dict[str, Any]:
        """What BackupAndRestore keeps of it: JSON-able values and NumPy arrays by name."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with what `get_state` gave; called after `on_train_begin`."""

    def on_train_begin(self, logs: Logs | None = None) -> None: ...

    def on_train_end(self, logs: Logs | None = None) -> None: ...

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None: ...

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None: ...

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None: ...

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None: ...

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.on_batch_end(batch, logs)

    def on_test_begin(self, logs: Logs | None = None) -> None: ...

    def on_test_end(self, logs: Logs | None = None) -> None: ...

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None: ...

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None: ...

    def on_predict_begin(self, logs: Logs | None = None) -> None: ...

    def on_predict_end(self, logs: Logs | None = None) -> None: ...

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None: ...

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None: ...


class History(Callback):
    """What the logs of the epochs were: lists of one value an epoch by name, such as "loss", in
    `history`, and the numbers of the epochs in `epoch`."""

    def __init__(self) -> None:
        self.history: dict[str, list[Any]] = {}
        self.epoch: list[int] = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(value)

    def get_state(self) -> dict[str, Any]:
        return {"history": self.history, "epoch": self.epoch}

    def set_state(self, state: dict[str, Any]) -> None:
        self.history, self.epoch = state["history"], state["epoch"]


class CallbackList:
    """Calls the hooks of several callbacks, one after the other.

    own: those of `fit`, which come after the user's: they see what these add to the logs. Backups
    come last of all.
    """

    def __init__(
        self,
        callbacks: object,
        model: Model,
        params: dict[str, Any],
        own: Sequence[Callback] = (),
    ) -> None:
        given: Any = [] if callbacks is None else callbacks
        listed: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given]
        wrong = [each for each in listed if not isinstance(each, Callback)]
        if wrong:
            raise ConfigError(
                f"callbacks expected objects of tl.callbacks, got {wrong[0]!r}: write "
                "a class of tl.callbacks.Callback"
            )
        # A sort keeps the order of the others.
        self.callbacks: list[Callback] = sorted([*listed, *own], key=lambda each: each.comes_last)
        self._listening: dict[str, list[Callback]] = {}
        for callback in self.callbacks:
            callback.set_params(params)
            callback.set_model(model)

    def call(self, hook: str, *args: Any) -> None:
        """That hook of all callbacks that override it."""
        for callback in self.listening(hook):
            getattr(callback, hook)(*args)

    def listening(self, hook: str) -> list[Callback]:
        """The callbacks that override a hook."""
        if hook not in self._listening:
            names = (hook, hook.replace("_train_batch_", "_batch_"))
            self._listening[hook] = [
                callback
                for callback in self.callbacks
                if any(getattr(type(callback), n) is not getattr(Callback, n) for n in names)
            ]
        return self._listening[hook]


def say(line: str) -> None:
    """Print one line of text on stdout, however narrow the terminal is."""
    from tvmlayers.printing import PlainConsole  # which takes a while, and most say nothing

    PlainConsole().print(line, soft_wrap=True)
