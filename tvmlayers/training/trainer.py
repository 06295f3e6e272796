"""What stands behind the verbs of a model: its step, its metrics and the loop over epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers.errors import ConfigError
from tvmlayers.layers import Model
from tvmlayers.numeric import not_negative, positive
from tvmlayers.training import optimizers
from tvmlayers.training.callbacks import CallbackList, History
from tvmlayers.training.callbacks.backup import BackupAndRestore
from tvmlayers.training.callbacks.base import Logs
from tvmlayers.training.data import Batch, Indexed, Reader, Source, Steps, indexed, source_of, split
from tvmlayers.training.progress import close, display
from tvmlayers.training.scores import Scores
from tvmlayers.training.step import TrainingStep

Array = NDArray[Any]
Predict = Callable[..., Any]


class Trainer:
    """Trains and evaluates one model; see `Verbs` for the arguments.

    step: made at the first fit. Its weights are those of the layers whenever a verb returns.
    """

    def __init__(
        self,
        model: Model,
        optimizer: object,
        loss: object,
        loss_weights: object,
        asked: object,
        weighted: object,
        tables: object,
        target: object,
        threads: int | None,
    ) -> None:
        if loss is None:
            raise ConfigError(
                "compile expected a loss, such as loss='sparse_categorical_crossentropy' or 'mse'"
            )
        self.model, self.scores = model, Scores(model, loss, loss_weights, asked, weighted)
        self.step: TrainingStep | None = None
        self._options: dict[str, Any] = {
            "loss": self.scores.losses,
            "loss_weights": self.scores.weights,
            "optimizer": optimizers.get(optimizer),
            "tables": None if tables is None else optimizers.get(tables),
            "target": target,
            "threads": threads,
        }
        self.names = self.scores.names
        self._graph: object = None
        self._versions: list[int] = []
        self._moved = False

    # Verbs.

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        batch_size: int | None,
        epochs: int,
        verbose: object,
        callbacks: object,
        validation_split: float,
        validation_data: Any,
        shuffle: bool,
        class_weight: Mapping[int, float] | None,
        sample_weight: Any,
        initial_epoch: int,
        steps_per_epoch: int | None,
        validation_steps: int | None,
        validation_batch_size: int | None,
        validation_freq: int,
        seed: int | None,
    ) -> History:
        epochs = not_negative("fit", "epochs", epochs)
        params: dict[str, Any] = {
            "initial_epoch": not_negative("fit", "initial_epoch", initial_epoch),
            "seed": _drawn() if seed is None else not_negative("fit", "seed", seed),
        }
        every = positive("fit", "validation_freq", validation_freq)
        shown, history = display(verbose), History()
        reader, weighing = Reader(self.model), Reader(self.model, class_weight)
        validation: Source | None = None
        held_size = validation_batch_size or batch_size
        if validation_split and validation_data is None:
            whole, held = split(
                source_of(reader, x, y, sample_weight, batch_size=batch_size), validation_split
            )
            validation = indexed(held, held_size)
            source: Source = indexed(
                weighing.batch(whole.inputs, _alone(_truth(whole)), whole.sample_weight), batch_size
            )
        else:
            source = source_of(weighing, x, y, sample_weight, batch_size=batch_size)
            if validation_data is not None:
                validation = source_of(reader, *_parts(validation_data), batch_size=held_size)
        if validation is not None and validation_steps is not None:
            validation = Steps(validation, validation_steps)
        steps = source if steps_per_epoch is None else Steps(source, steps_per_epoch)
        if getattr(steps, "passes_once", False) and epochs - params["initial_epoch"] > 1:
            raise ConfigError(
                "x is an iterator, which gives its batches once, and fit got several epochs: pass "
                "steps_per_epoch, or an iterable that can be gone through again"
            )
        step = self._begin()
        for each in (source, validation):
            samples = each.whole if isinstance(each, Indexed) else None
            if samples is not None:
                step.check(samples.inputs, _alone(_truth(samples)), samples.sample_weight)

        keys = [*self.names, *(f"val_{name}" for name in self.names if validation is not None)]
        params |= {
            "epochs": epochs,
            "steps": steps.batches,
            "verbose": verbose,
            "metrics": keys,
            "directions": self.scores.directions(),
        }
        listeners = CallbackList(callbacks, self.model, params, own=[history, *shown])
        for callback in listeners.callbacks:
            if isinstance(callback, BackupAndRestore):
                callback.set_callbacks(listeners)
        self.model.stop_training = False
        logs: Logs = {}
        try:
            listeners.call("on_train_begin", {})
            if shuffle and isinstance(source, Indexed):
                source.seed = params["seed"]
            for epoch in range(params["initial_epoch"], epochs):
                if self.model.stop_training:
                    break
                logs = self._epoch(epoch, steps, listeners)
                if validation is not None and (epoch + 1) % every == 0:
                    held_logs = self._evaluate(validation, listeners)
                    logs |= {f"val_{name}": value for name, value in held_logs.items()}
                listeners.call("on_epoch_end", epoch, logs)
            listeners.call("on_train_end", logs)
        finally:
            close(shown)
            self._sync()
        return history

    def evaluate(
        self,
        x: Any,
        y: Any,
        *,
        batch_size: int | None,
        verbose: object,
        sample_weight: Any,
        steps: int | None,
        callbacks: object,
        return_dict: bool,
    ) -> Any:
        shown = display(verbose)
        source = _limited(
            source_of(Reader(self.model), x, y, sample_weight, batch_size=batch_size), steps
        )
        params = {"steps": source.batches, "verbose": verbose, "metrics": self.names}
        listeners = CallbackList(callbacks, self.model, params, own=shown)
        try:
            logs = self._evaluate(source, listeners)
        finally:
            close(shown)
        return self._results(logs, return_dict)

    def train_on_batch(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        class_weight: Mapping[int, float] | None,
        return_dict: bool,
    ) -> Any:
        batch = Reader(self.model, class_weight).batch(x, y, sample_weight)
        self._begin()
        try:
            self._train(batch)
        finally:
            self._sync()
        return self._results(self.scores.logs(), return_dict)

    def reset_metrics(self) -> None:
        self.scores.reset()

    def predictor(self) -> Predict:
        """What predicts with the weights that the layers have."""
        if self.step is None or self._graph is not self.model.ready().graph:
            return self.model
        self._pull()
        made: Predict = self.step.compiled()
        return made

    # The step and the layers.

    def _begin(self) -> TrainingStep:
        """The step, made anew where the model is another graph, with the weights of the layers."""
        graph = self.model.ready().graph
        if self.step is None or self._graph is not graph:
            from tvmlayers.codegen.training import compile_step

            self.step = compile_step(self.model, **self._options)
            self._graph = graph
            self._versions = self._versions_now()
        self._pull()
        return self.step

    def _pull(self) -> None:
        """Give the step the weights of layers that were given others since it gave them its own."""
        assert self.step is not None
        now = self._versions_now()
        if now != self._versions:
            known = self.step.weights()
            given = self.model.weights
            self.step.set_weights({name: given[name] for name in known})
            self._versions = now

    def _sync(self) -> None:
        """Give the layers the weights of the step, where it moved."""
        if self._moved and self.step is not None:
            self.step.update_model()
            self._versions = self._versions_now()
            self._moved = False

    def _versions_now(self) -> list[int]:
        return [layer.version for layer in self.model.layers]

    # The loop.

    def _epoch(self, epoch: int, source: Source, listeners: CallbackList) -> Logs:
        self._pull()
        self.reset_metrics()
        listeners.call("on_epoch_begin", epoch, {})
        hears_end = bool(listeners.listening("on_train_batch_end"))
        made = 0
        for place, batch in enumerate(source.epoch(epoch)):
            listeners.call("on_train_batch_begin", place, {})
            self._train(batch)
            made += 1
            if hears_end:
                listeners.call("on_train_batch_end", place, self.scores.logs())
            if self.model.stop_training:
                break
        if not made:
            raise ConfigError(f"x gave no batch in epoch {epoch + 1}: pass data that is not empty")
        if isinstance(source, Steps) and made < source.batches:
            self.model.stop_training = True
        self._sync()
        return self.scores.logs()

    def _train(self, batch: Batch) -> None:
        """One step, and the metrics of its batch with the weights before it."""
        step = self.step
        assert step is not None
        truths = self._aligned(batch)
        self._moved = True
        loss = step(batch.inputs, _alone(truths), batch.sample_weight)
        self.scores.add_losses(loss, list(step.losses().values()), len(batch))
        if self.scores.has_metrics:
            self.scores.add(truths, step.predictions_by_output(), batch.sample_weight)

    def _evaluate(self, source: Source, listeners: CallbackList) -> Logs:
        predict = self.predictor()
        self.reset_metrics()
        listeners.call("on_test_begin", {})
        seen = 0
        for place, batch in enumerate(source.epoch(0)):
            listeners.call("on_test_batch_begin", place, {})
            predicted = _arrays(predict(*batch.x))
            truths = self._aligned(batch)
            self.scores.evaluate(truths, predicted, batch.sample_weight, seen)
            self.scores.add(truths, predicted, batch.sample_weight)
            seen += len(batch)
            listeners.call("on_test_batch_end", place, self.scores.logs())
        if not seen:
            raise ConfigError("the data to evaluate gave no batch")
        logs = self.scores.logs()
        listeners.call("on_test_end", logs)
        return logs

    def _aligned(self, batch: Batch) -> list[Array]:
        """y of each output in the form that its loss and metrics take."""
        shape = self.model.output_shape
        shapes = shape if len(self.scores.outputs) > 1 else [shape]
        return self.scores.aligned(_truth(batch), [(len(batch), *each[1:]) for each in shapes])

    def _results(self, logs: Logs, return_dict: bool) -> Any:
        if return_dict:
            return logs
        values = [logs[name] for name in self.names]
        return values if len(values) > 1 else values[0]


def predict(
    model: Model,
    trainer: Trainer | None,
    x: Any,
    batch_size: int | None,
    verbose: object,
    steps: int | None,
    callbacks: object,
) -> Any:
    """`Model.predict`: all batches one after the other, of a model that need not be compiled."""
    shown = display(verbose)
    source = _limited(source_of(Reader(model), x, batch_size=batch_size), steps)
    params = {"steps": source.batches, "verbose": verbose, "metrics": []}
    listeners = CallbackList(callbacks, model, params, own=shown)
    call: Predict = model if trainer is None else trainer.predictor()
    parts: list[list[Array]] = []
    try:
        listeners.call("on_predict_begin", {})
        for place, batch in enumerate(source.epoch(0)):
            listeners.call("on_predict_batch_begin", place, {})
            made = call(*batch.x)
            parts.append(_arrays(made))
            listeners.call("on_predict_batch_end", place, {"outputs": made})
        listeners.call("on_predict_end", {})
    finally:
        close(shown)
    if not parts:
        raise ConfigError("the data to predict gave no batch")
    outputs = [np.concatenate(each) for each in zip(*parts, strict=True)]
    return outputs[0] if len(outputs) == 1 else outputs


def _truth(batch: Batch) -> tuple[Array, ...]:
    if batch.y is None:
        raise ConfigError("expected y beside x, got none: pass both, or batches of (x, y)")
    return batch.y


def _limited(source: Source, steps: int | None) -> Source:
    return source if steps is None else Steps(source, steps)


def _drawn() -> int:
    """A seed that nobody gave."""
    return int(np.random.SeedSequence().generate_state(1)[0])


def _parts(data: Any) -> tuple[Any, ...]:
    """(x, y) or (x, y, sample_weight) where that was given, else the iterable alone."""
    is_list = isinstance(data, list) and all(hasattr(each, "shape") for each in data)
    return tuple(data) if is_list or isinstance(data, tuple) else (data,)


def _alone(values: Sequence[Any]) -> Any:
    """The values as a tuple, or the one that there is."""
    return tuple(values) if len(values) > 1 else values[0]


def _arrays(made: Any) -> list[Array]:
    """What a model gives, of each output."""
    several = made if isinstance(made, (list, tuple)) else [made]
    return [each if isinstance(each, np.ndarray) else np.asarray(each) for each in several]
