"""BatchNormalization in training: by the statistics of the batch, which the moving ones follow.

Of N rows and x_hat = (x - mean) / sqrt(variance + epsilon), with d = dy * gamma:
dx = (d - mean(d) - x_hat * mean(d * x_hat)) / sqrt(variance + epsilon); all means over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

from tvm import te
from tvm.ir import Expr

from tvmlayers import layers
from tvmlayers.codegen.cpu import elements
from tvmlayers.codegen.cpu.batch_statistics import column_means, moving_averages
from tvmlayers.codegen.cpu.broadcast_gradient import broadcast_kernel, sum_over
from tvmlayers.codegen.fuse import Step
from tvmlayers.codegen.training.merges import follow_columns
from tvmlayers.codegen.training.tape import Backward, Dims, Tape, Value
from tvmlayers.codegen.weights import Packed
from tvmlayers.errors import ConfigError
from tvmlayers.expr import math as m
from tvmlayers.expr.elementwise import Operand


def batch_normalization(tape: Tape, step: Step, inputs: Sequence[Value]) -> tuple[Value, Backward]:
    """BatchNormalization; a frozen one by its moving statistics, as in Keras."""
    (x,) = inputs
    layer = step.layer
    assert isinstance(layer, layers.BatchNormalization)
    if step.inputs[0].mask_of is not None and layer.trainable:
        raise ConfigError(
            f"{layer.describe()} normalises a masked tensor: no step is compiled for that yet; put "
            "it behind the pooling"
        )
    return _Batch(tape, layer, x).written()


class _Batch:
    """One use of a layer. A row is what has one number of each feature, and the axes after."""

    def __init__(self, tape: Tape, layer: layers.BatchNormalization, x: Value) -> None:
        self.tape, self.layer, self.x, self.dtype = tape, layer, x, x.dtype
        after = x.dims[len(x.dims) - layer.axes_after :] if layer.axes_after else ()
        self.after = tuple(int(dim) for dim in after)
        assert layer.features is not None
        self.features = layer.features
        self.lengths = (layer.features, *self.after)
        self.lead: Dims = x.dims[: len(x.dims) - len(self.lengths)]
        for name, array in layer.weights.items():
            kept = Packed(array.shape, x.dtype, partial(_copy, array))
            tape.keep(f"{layer.name}/{name}", kept, "weight", array.shape)

    def weight(self, name: str) -> Value:
        return self.tape.weight(f"{self.layer.name}/{name}")

    def by_element(
        self, function: Callable[..., Expr], rows: Sequence[Value], columns: Sequence[Value]
    ) -> Value:
        """A function of an element of values like x, and of its feature's number in others."""
        ones = (1,) * len(self.after)
        operands = [Operand(self.lengths, True, self.dtype)] * len(rows)
        operands += [Operand((self.features, *ones), False, self.dtype)] * len(columns)
        made = self.tape.value("batch_norm", self.x.dims, self.dtype, needs=True)
        count = len(self.lead)
        kernel = broadcast_kernel(
            self.tape.name("batch_norm"),
            function,
            operands,
            self.lengths,
            self.dtype,
            lambda shapes: [elements(shapes[0][:count])],
        )
        self.tape.call(kernel, *rows, *columns, made)
        return made

    def by_feature(self, rows: Value) -> Value:
        """Values like x, summed over the axes after the features: (rows, features)."""
        if not self.after:
            return self.tape.view(rows, (*self.lead, self.features))
        lanes, count = self.tape.target.lanes(self.dtype), len(self.lead)
        made = self.tape.value("by_feature", (*self.lead, self.features), self.dtype, needs=True)
        own = (self.features, *(1,) * len(self.after))
        kernel = sum_over(
            self.tape.name("by_feature"),
            self.lengths,
            own,
            lanes,
            self.dtype,
            lambda shapes: [elements(shapes[0][:count])],
        )
        self.tape.call(kernel, rows, made)
        return made

    def means(self, rows: Value) -> Value:
        """The mean of each feature over the batch, of values like x; a sum of the axes after."""
        made = self.tape.value("batch_mean", (self.features,), self.dtype)
        lanes, by_feature = self.tape.target.lanes(self.dtype), self.by_feature(rows)
        units = column_means(self.tape.name("batch_mean"), self.features, lanes, self.dtype)
        self.tape.gather(units, by_feature, made, count=self.lead)
        return made

    def written(self) -> tuple[Value, Backward]:
        layer, x = self.layer, self.x
        # `means` sums over the axes after the features: their share of a mean.
        over = 1.0 / prod(self.after)

        def share(value: Expr) -> Expr:
            return value * m.constant(over, value) if self.after else value

        if layer.trainable:
            mean = self.means(x)
            squares = self.by_element(
                lambda x, mean: m.bind(x - share(mean), lambda d: d * d), [x], [mean]
            )
            variance = self.means(squares)
            self._follow_statistics(mean, variance, over)
        else:
            mean, variance = self.weight("moving_mean"), self.weight("moving_variance")
            over = 1.0
        statistics = [mean, variance]
        shared = share if layer.trainable else _same
        own = [self.weight(name) for name in ("gamma", "beta") if name in layer.weights]

        def hat(x: Expr, mean: Expr, variance: Expr) -> Expr:
            root = te.sqrt(shared(variance) + m.constant(layer.epsilon, x))
            return (x - shared(mean)) / root

        def value(x: Expr, mean: Expr, variance: Expr, *own: Expr) -> Expr:
            given = list(own)
            made = hat(x, mean, variance)
            made = made * given.pop(0) if layer.scale else made
            return made + given.pop(0) if layer.center else made

        out = self.by_element(value, [x], [*statistics, *own])
        out.needs = x.needs or bool(own and layer.trainable)

        def backward(dy: Value) -> list[Value | None]:
            if layer.trainable and layer.center:
                self._follow("beta", dy)
            scale = [self.weight("gamma")] if layer.scale else []
            if not layer.trainable:

                def frozen(dy: Expr, variance: Expr, *gamma: Expr) -> Expr:
                    d = dy * gamma[0] if gamma else dy
                    return d / te.sqrt(variance + m.constant(layer.epsilon, dy))

                return [self.by_element(frozen, [dy], [variance, *scale])]
            products = self.by_element(
                lambda x, dy, mean, variance: dy * hat(x, mean, variance), [x, dy], statistics
            )
            if layer.scale:
                self._follow("gamma", products)
            if not x.needs:
                return [None]
            sums = [self.means(dy), self.means(products)]

            def dx(
                x: Expr, dy: Expr, mean: Expr, variance: Expr, d: Expr, p: Expr, *gamma: Expr
            ) -> Expr:
                root = te.sqrt(share(variance) + m.constant(layer.epsilon, x))
                made = (dy - share(d) - (x - share(mean)) / root * share(p)) / root
                return made * gamma[0] if gamma else made

            return [self.by_element(dx, [x, dy], [*statistics, *sums, *scale])]

        return out, backward

    def _follow(self, name: str, rows: Value) -> None:
        follow_columns(self.tape, self.layer, name, self.by_feature(rows))

    def _follow_statistics(self, mean: Value, variance: Value, over: float) -> None:
        for name, value in (("moving_mean", mean), ("moving_variance", variance)):
            full = f"{self.layer.name}/{name}"
            self.tape.follow(full, partial(self._averages, full, over), value)

    def _averages(self, name: str, over: float, means: list[Value]) -> None:
        """A moving average follows the statistics of all uses, in the order of the calls."""
        tape = self.tape
        units = moving_averages(
            tape.name("moving_average"),
            self.features,
            self.layer.momentum,
            over,
            len(means),
            tape.target.lanes(self.dtype),
            self.dtype,
        )
        tape.update(units, *means, tape.weight(name))


def _same(value: Expr) -> Expr:
    return value


def _copy(array: Any, out: Any) -> None:
    out[...] = array
