"""Keras's verbs of a model: compile, fit, evaluate, predict. `training.trainer` does the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tvmlayers.errors import ConfigError

if TYPE_CHECKING:
    from tvmlayers.layers.model import Model
    from tvmlayers.training.callbacks import Callback, History
    from tvmlayers.training.step import TrainingStep
    from tvmlayers.training.trainer import Trainer


class Verbs:
    """What trains a model; the names, arguments and defaults are Keras's.

    x: a tensor; a list or a dict by name for several inputs; a Dataset or a DataLoader of PyTorch;
    or any iterable of (x, y) or (x, y, sample_weight). y and sample_weight: arrays of one row a
    sample, left out where x gives them; for several outputs y is a list or a dict by name.
    batch_size: 32 where it is left out; the last batch may be smaller. verbose: 0 silent, 1 a bar,
    2 a line an epoch; "auto" is 1, and where the output is no terminal 1 is 2.
    """

    stop_training: bool = False
    """Set to true by a callback, `fit` ends after the step at hand."""
    _trainer: Trainer | None = None

    def compile(
        self,
        optimizer: object = "sgd",
        loss: object = None,
        *,
        loss_weights: object = None,
        metrics: object = None,
        weighted_metrics: object = None,
        tables: object = None,
        target: object = "native",
        threads: int | None = None,
    ) -> None:
        """Say how to train; nothing is compiled before the first `fit`, and states begin anew.

        optimizer, loss, loss_weights, tables, target, threads: as for `tl.compile_step`. metrics:
        names such as "accuracy", objects of `tl.metrics` or functions of (y_true, y_pred); sample
        weights count for the weighted_metrics alone. For several outputs a list or a dict by name
        of one or some for each. UnknownNameError for a name that is not known.
        """
        from tvmlayers.training.trainer import Trainer

        model: Model = self  # type: ignore[assignment]
        self._trainer = Trainer(
            model, optimizer, loss, loss_weights, metrics, weighted_metrics, tables, target, threads
        )

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Callback | Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
        *,
        seed: int | None = None,
    ) -> History:
        """Train for the epochs from initial_epoch up to `epochs`; the layers take the weights.

        validation_split: the share of the samples, the last ones, that are not trained on but
        evaluated after each epoch; validation_data: (x, y), (x, y, sample_weight) or an iterable of
        them for that. shuffle: arrays and Datasets, anew in each epoch, by the seed; the same seed
        gives the same bits. class_weight: what samples of a class count, by its number.

        Metrics of an epoch are those of the predictions before each update, in training mode.
        Arrays are checked before anything is updated. However `fit` ends, by an error or Ctrl-C
        too, the layers have the weights of the last whole step.
        """
        return self._ready("fit").fit(
            x,
            y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size,
            validation_freq=validation_freq,
            seed=seed,
        )

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Callback | Sequence[Callback] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """The loss, or [loss, *metrics] where there are metrics; by name with return_dict."""
        return self._ready("evaluate").evaluate(
            x,
            y,
            batch_size=batch_size,
            verbose=verbose,
            sample_weight=sample_weight,
            steps=steps,
            callbacks=callbacks,
            return_dict=return_dict,
        )

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        steps: int | None = None,
        callbacks: Callback | Sequence[Callback] | None = None,
    ) -> Any:
        """What the model gives for all of x, batch by batch: a NumPy array, or a list of them for
        several outputs. The model need not be compiled."""
        from tvmlayers.training.trainer import predict

        model: Model = self  # type: ignore[assignment]
        return predict(model, self._trainer, x, batch_size, verbose, steps, callbacks)

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """One step on one batch; gives what `evaluate` gives, over all batches since the metrics
        were reset. The layers take the weights, which is a copy: a loop that needs speed calls
        `tl.compile_step` instead."""
        trainer = self._ready("train_on_batch")
        return trainer.train_on_batch(x, y, sample_weight, class_weight, return_dict)

    def reset_metrics(self) -> None:
        """Begin the metrics of `train_on_batch` anew."""
        self._ready("reset_metrics").reset_metrics()

    @property
    def training_step(self) -> TrainingStep | None:
        """The compiled step behind `fit`; None before the first one."""
        return None if self._trainer is None else self._trainer.step

    @property
    def metrics_names(self) -> list[str]:
        """The names of what `evaluate` gives, in order."""
        return self._ready("metrics_names").names

    def _ready(self, verb: str) -> Trainer:
        if self._trainer is None:
            raise ConfigError(
                f"{verb} expected a model that was compiled: call model.compile(optimizer=..., "
                "loss=...) first"
            )
        return self._trainer
