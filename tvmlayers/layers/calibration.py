"""Which layers to keep in how few bits: the fewest with which a limit holds on example inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from io import StringIO
from math import isfinite
from typing import Any

import numpy as np

from tvmlayers.errors import ConfigError, TvmLayersError
from tvmlayers.layers.base import Array
from tvmlayers.layers.model import Model
from tvmlayers.layers.stored import StoredLayer, in_fewer_bits
from tvmlayers.numeric import not_negative_real, real
from tvmlayers.quantization import Kind

_FEWER_FIRST = ("int4", "int8", "float16")
_WIDE_HALF = "bfloat16"  # where float16 cannot hold a number


@dataclass(frozen=True)
class Choice:
    """How one layer is kept.

    kind: as `layer.stored`; bound: of the error of a number that a lookup gives, or of a sum of
    products for an input row of length 1, as in `compiled.report()`; error: the largest change of
    an output on the example inputs where this layer alone is kept so.
    """

    layer: str
    kind: str
    bound: float
    error: float


@dataclass(frozen=True)
class Calibration:
    """What `quantize` chose on example inputs, and what that changes; `str()` is a table.

    choices: of each layer that could be kept in fewer bits, in the model's order; error: the
    largest change of an output; limit: what was asked for, in words; drop: how much the metric
    lost, None without one.
    """

    choices: tuple[Choice, ...]
    error: float
    limit: str
    drop: float | None = None

    def __str__(self) -> str:
        from tvmlayers.printing import PlainConsole, PlainTable

        table = PlainTable(f"calibrated: {self.limit}")
        for head in ("layer", "kept as", "bound", "error alone"):
            table.add_column(head, justify="right" if head in ("bound", "error alone") else "left")
        for each in self.choices:
            table.add_row(each.layer, each.kind, f"{each.bound:.2e}", f"{each.error:.2e}")
        lost = "" if self.drop is None else f", the metric loses {self.drop:.3g}"
        table.caption = f"largest change of an output, all layers: {self.error:.2e}{lost}"
        text = StringIO()
        PlainConsole(file=text, width=100).print(table)
        return text.getvalue()


@dataclass(frozen=True)
class Limit:
    """What fewer bits may change: outputs by `error` at most, or `metric` by `drop`.

    metric: of what the model gives for the example inputs; larger is better. With neither nothing
    is limited.
    """

    error: float | None = None
    metric: Callable[[Any], float] | None = None
    drop: float = 0.01

    @classmethod
    def of(cls, max_error: object, metric: Any, max_drop: object) -> Limit:
        """The limit that the arguments of `quantize` say; ConfigError for what is none."""
        if max_error is not None and metric is not None:
            raise ConfigError("give max_error= or metric=, not both")
        if max_drop is not None and metric is None:
            raise ConfigError("max_drop= is of a metric: give metric=")
        if metric is not None and not callable(metric):
            raise ConfigError(
                f"metric is a function of the model's outputs, got {type(metric).__name__}"
            )
        if max_error is not None:
            max_error = not_negative_real("quantize", "max_error", max_error)
        drop = 0.01 if max_drop is None else not_negative_real("quantize", "max_drop", max_drop)
        return cls(max_error, metric, drop)

    def __str__(self) -> str:
        if self.error is not None:
            return f"outputs may change by {self.error:g}"
        return f"the metric may lose {self.drop:g}" if self.metric else "no limit"

    def score(self, outputs: Any) -> float:
        """What the metric says of outputs; ConfigError where that is no finite number."""
        assert self.metric is not None
        found = self.metric(outputs)
        number = real("quantize", "the value of metric", getattr(found, "item", lambda: found)())
        if not isfinite(number):
            raise ConfigError(f"metric gave {number} for the outputs on the calibration inputs")
        return number


def calibrated(
    model: Model, wanted: Sequence[str | None], calibrate: Any, limit: Limit
) -> tuple[list[str | None], Calibration]:
    """(the kind of each layer, what that changes on the inputs `calibrate`).

    wanted: the fewest bits of each layer of the model, None for those that stay. All begin with
    these; while the limit does not hold, the layer that alone changes outputs most takes more bits.
    At the end no layer can take fewer again.
    """
    trials = _Trials(model, calibrate, limit)
    rungs = {
        place: trials.rungs(place, kind) for place, kind in enumerate(wanted) if kind is not None
    }
    at = dict.fromkeys(rungs, 0)

    def kinds(places: Mapping[int, int]) -> tuple[tuple[int, str], ...]:
        return tuple((place, rungs[place][rung]) for place, rung in sorted(places.items()))

    def alone(place: int) -> float:
        return trials.error(kinds({place: at[place]}))

    while not trials.holds(kinds(at)):
        more = [place for place in rungs if at[place] + 1 < len(rungs[place])]
        if not more:
            break
        at[max(more, key=alone)] += 1
    for place in sorted(rungs, key=lambda place: -trials.layers[place].count_params()):
        while at[place] and trials.holds(kinds({**at, place: at[place] - 1})):
            at[place] -= 1
    chosen = {place: rungs[place][rung] for place, rung in at.items()}
    calibration = Calibration(
        tuple(
            Choice(trials.layers[place].name, kind, trials.bound(place, kind), alone(place))
            for place, kind in chosen.items()
        ),
        trials.error(kinds(at)),
        str(limit),
        trials.drop(kinds(at)) if limit.metric else None,
    )
    kept = {place: kind for place, kind in chosen.items() if kind != trials.layers[place].dtype}
    return [kept.get(place) for place in range(len(wanted))], calibration


class _Trials:
    """The model on the example inputs, with some of its layers in fewer bits."""

    def __init__(self, model: Model, calibrate: Any, limit: Limit) -> None:
        from tvmlayers.codegen import compile as compile_model

        self.model, self.layers, self._limit = model, model.ready().layers, limit
        self._compile = compile_model
        self._compiled: Any = compile_model(model)
        several = isinstance(calibrate, (tuple, list)) and len(model.inputs) > 1
        self._named = dict(calibrate) if isinstance(calibrate, Mapping) else {}
        self._inputs = () if self._named else tuple(calibrate) if several else (calibrate,)
        self._floats = self._call(self._compiled)
        for name, array in zip(model.outputs, _arrays(self._floats), strict=True):
            if not array.size:
                raise ConfigError("calibrate expected at least one sample, got none")
            if not np.isfinite(array).all():
                raise ConfigError(
                    f"the output {name.name!r} is not finite for some calibration inputs: leave "
                    "those out"
                )
        self._score = limit.score(self._floats) if limit.metric else 0.0
        self.outputs = cache(self._outputs)

    def rungs(self, place: int, kind: str) -> list[str]:
        """The kinds that a layer may be kept as: `kind`, and those with more bits."""
        layer, asked = self.layers[place], Kind.of(kind)
        assert isinstance(layer, StoredLayer)
        more = list(_FEWER_FIRST)
        more = more[more.index(asked.base) + 1 :] if asked.base in more else []
        kinds = [kind]
        for base in (asked.base, *more):
            wider = replace(asked, base=base, group=asked.group if base == asked.base else 0)
            kinds += [wider.name] if wider.is_codes else []
            kinds.append(replace(wider, activations="", group=wider.group * wider.is_codes).name)
        if not layer.has_groups:
            kinds = [Kind.of(name).base for name in kinds]
        found = [name for name in dict.fromkeys(kinds) if self._can_hold(layer, name)]
        if "float16" in kinds and "float16" not in found:
            found += [_WIDE_HALF] * self._can_hold(layer, _WIDE_HALF)
        return [*found, layer.dtype]

    def _can_hold(self, layer: StoredLayer, kind: str) -> bool:
        try:
            layer.held(dict(layer.weights), kind)
        except TvmLayersError:
            return False
        return True

    def bound(self, place: int, kind: str) -> float:
        """Of the error of a layer's numbers or sums; 0 as float weights."""
        layer = self.layers[place]
        assert isinstance(layer, StoredLayer)
        if kind == layer.dtype:
            return 0.0
        return layer.form.bound(layer.held(dict(layer.weights), kind), kind)

    def holds(self, kinds: tuple[tuple[int, str], ...]) -> bool:
        """Whether the limit does, with those layers kept so."""
        if self._limit.error is not None:
            return self.error(kinds) <= self._limit.error
        return self._limit.metric is None or self.drop(kinds) <= self._limit.drop

    def error(self, kinds: tuple[tuple[int, str], ...]) -> float:
        """The largest change of an output."""
        pairs = zip(_arrays(self.outputs(kinds)), _arrays(self._floats), strict=True)
        found = [np.abs(got.astype(np.float64) - floats).max() for got, floats in pairs]
        return float(max(np.inf if np.isnan(each) else each for each in found))

    def drop(self, kinds: tuple[tuple[int, str], ...]) -> float:
        """How much the metric loses."""
        return self._score - self._limit.score(self.outputs(kinds))

    def _outputs(self, kinds: tuple[tuple[int, str], ...]) -> Any:
        """What the model gives. Weights in fewer bits are the numbers that they stand for, in the
        float model's code; inputs in fewer bits have code of their own."""
        if any(Kind.of(kind).activations for _, kind in kinds):
            named = dict(kinds)
            fewer = [named.get(place) for place in range(len(self.layers))]
            return self._call(self._compile(in_fewer_bits(self.model, fewer)))
        weights = dict(self.model.weights)
        for place, kind in kinds:
            layer = self.layers[place]
            assert isinstance(layer, StoredLayer)
            if kind != layer.dtype:
                held = layer.held(dict(layer.weights), kind)
                weights[f"{layer.name}/{layer.main}"] = layer.form.floats(held, kind)
        return self._call(self._compiled.with_weights(weights))

    def _call(self, compiled: Any) -> Any:
        return compiled(*self._inputs, **self._named)


def _arrays(outputs: Any) -> list[Array]:
    return [np.asarray(each) for each in (outputs if isinstance(outputs, list) else [outputs])]
