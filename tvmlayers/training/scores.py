"""What a training or an evaluation reports: losses and metrics by Keras's names, over batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from tvmlayers.errors import ConfigError
from tvmlayers.layers import Model
from tvmlayers.training import metrics
from tvmlayers.training.loss_values import aligned, loss_values
from tvmlayers.training.outputs import by_output, losses_of, output_names, weights_of

Array = NDArray[Any]


@dataclass(frozen=True)
class _Scored:
    """A metric of one output: its key in logs, and whether sample weights count."""

    key: str
    output: int
    metric: metrics.Metric
    is_weighted: bool


class Scores:
    """The loss, the loss of each output where there are several, and the metrics of each.

    loss, loss_weights: as of `tl.compile_step`. asked, weighted: metrics; a list, and for several
    outputs a list or a dict by name of one or some for each.
    """

    def __init__(
        self, model: Model, loss: object, loss_weights: object, asked: object, weighted: object
    ) -> None:
        # A model that waits for its shape is a Sequential, of one output.
        self.outputs = output_names(model) if model.is_built else ["output"]
        self.losses = losses_of(loss, self.outputs)
        self.weights = weights_of(loss_weights, self.outputs)
        self._loss = metrics.Mean(lambda y, p: p, "loss")
        several = self.outputs if len(self.outputs) > 1 else []
        self._each = [metrics.Mean(lambda y, p: p, f"{name}_loss") for name in several]
        self._metrics = [
            _Scored(f"{self.outputs[i]}_{each.name}" if several else each.name, i, each, counts)
            for given, counts in ((asked, False), (weighted, True))
            for i, some in enumerate(_by_output(given, self.outputs))
            for each in map(metrics.get, some)
        ]
        self.names = [
            *(each.name for each in (self._loss, *self._each)),
            *(each.key for each in self._metrics),
        ]
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise ConfigError(f"two metrics are called {twice[0]!r}: give one another name=")

    @property
    def has_metrics(self) -> bool:
        """Whether predictions are asked for."""
        return bool(self._metrics)

    def reset(self) -> None:
        """Begin anew."""
        for metric in (self._loss, *self._each, *(each.metric for each in self._metrics)):
            metric.reset_state()

    def aligned(self, y: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """y of each output in the form that its loss and metrics take beside that shape."""
        return [
            aligned(each, shape, loss.is_sparse)
            for each, shape, loss in zip(y, shapes, self.losses, strict=True)
        ]

    def add_losses(self, total: float, each: Sequence[float], count: int) -> None:
        """The losses of a step of so many samples."""
        self._loss.add(total, count)
        for metric, loss in zip(self._each, each, strict=False):
            metric.add(loss, count)

    def evaluate(
        self,
        truths: Sequence[Array],
        predicted: Sequence[Array],
        sample_weight: Array | None,
        first: int,
    ) -> None:
        """The losses of predictions; first: the place of the first sample among all."""
        means = []
        for loss, truth, made in zip(self.losses, truths, predicted, strict=True):
            each = loss_values(loss, truth, made, first)
            counted = each if sample_weight is None else each * sample_weight
            means.append(float(counted.mean()))
        total = sum(weight * mean for weight, mean in zip(self.weights, means, strict=True))
        self.add_losses(total, means, len(predicted[0]))

    def add(
        self, truths: Sequence[Array], predicted: Sequence[Array], sample_weight: Array | None
    ) -> None:
        """A batch for the metrics."""
        for each in self._metrics:
            given = (truths[each.output], predicted[each.output])
            if each.is_weighted:
                each.metric.update_state(*given, sample_weight)
            else:
                each.metric.update_state(*given)

    def logs(self) -> dict[str, float]:
        """All values by name."""
        return {
            **{each.name: each.result() for each in (self._loss, *self._each)},
            **{each.key: each.metric.result() for each in self._metrics},
        }

    def directions(self) -> dict[str, str | None]:
        """Whether more or less is better, by name."""
        found = {each.key: each.metric.direction for each in self._metrics}
        return {**{each.name: "min" for each in (self._loss, *self._each)}, **found}


def _by_output(asked: object, names: Sequence[str]) -> list[list[object]]:
    """The metrics of each output: one may come alone."""
    if asked is None:
        return [[] for _ in names]
    if len(names) == 1 and not isinstance(asked, Mapping):
        return [_listed(asked)]
    return [_listed(each) for each in by_output("metrics", asked, names, ())]


def _listed(asked: object) -> list[object]:
    if asked is None:
        return []
    return list(asked) if isinstance(asked, (list, tuple)) else [asked]
