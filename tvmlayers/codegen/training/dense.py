"""A Dense in training: its weights in panels, W^T in panels beside them, and their kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers import layers
from tvmlayers.artifact.panels import PanelLayout, pack_columns, pack_kernel, panel_layout
from tvmlayers.codegen.cpu.activation import elementwise_function
from tvmlayers.codegen.cpu.backward import padded_columns
from tvmlayers.codegen.cpu.dense import gemm_spec
from tvmlayers.codegen.cpu.dense_gradient import DenseUpdate, dense_update
from tvmlayers.codegen.cpu.gemm_driver import gemm_functions
from tvmlayers.codegen.cpu.kernel import Kernel, elements
from tvmlayers.codegen.training.clipping import Clip
from tvmlayers.codegen.training.shared import joined
from tvmlayers.codegen.training.tape import Dims, Tape, Value
from tvmlayers.codegen.training.target import block_regimes
from tvmlayers.codegen.weights import Packed
from tvmlayers.errors import ConfigError
from tvmlayers.expr.activations import CHEAP
from tvmlayers.expr.gradients import collecting
from tvmlayers.expr.optimizers import rule_of
from tvmlayers.spaces import gemm
from tvmlayers.workload import Workload


@dataclass
class DenseTraining:
    """The weights of one Dense in the arena, and what reads and updates them."""

    tape: Tape
    layer: layers.Dense
    layout: PanelLayout
    kernel: Value
    bias: Value | None

    @staticmethod
    def of(tape: Tape, layer: layers.Dense) -> DenseTraining:
        """The weights of `layer`, put into the arena."""
        if layer.is_quantized:
            raise ConfigError(
                f"{layer.describe()} keeps its kernel as {layer.stored}: steps train float weights"
            )
        weights = layer.weights
        k, n = weights["kernel"].shape
        layout = _layout(tape, k, n, layer.dtype)
        packed = Packed(
            (layout.size,),
            layer.dtype,
            lambda out: pack_kernel(weights["kernel"], layout, out),
            layout.describe(),
        )
        kernel = tape.keep(f"{layer.name}/kernel", packed, "weight", (k, n))
        bias = None
        if layer.use_bias:
            fill = partial(pack_columns, weights["bias"], layout)
            by_column = Packed((layout.columns,), layer.dtype, fill)
            bias = tape.keep(f"{layer.name}/bias", by_column, "weight", (n,))
        return DenseTraining(tape, layer, layout, kernel, bias)

    def forward(self, x: Value, dims: Dims, activation: Any) -> Value:
        """activation(x W + b)."""
        needs = x.needs or self.layer.trainable
        out = self.tape.value(self.layer.name, dims, self.layer.dtype, needs=needs)
        kernel = _gemm(self.tape, self.layer.name, self.layout, activation, self.layer.use_bias)
        weights = [each for each in (self.kernel, self.bias) if each is not None]
        self.tape.call(kernel, x, *weights, out)
        return out

    def backward(self, x: Value, dy: Value) -> Value | None:
        """The gradient of x where one is needed, and the update of the weights."""
        transposed = _layout(self.tape, self.layout.n, self.layout.k, self.layer.dtype)
        # One row or one column lies alike in both.
        is_shared = 1 in (self.layout.k, self.layout.n)
        dx = None
        if x.needs:
            other = self.kernel if is_shared else self._keep_transposed(transposed)
            dx = self.tape.value(f"{self.layer.name}_dx", x.dims, x.dtype, needs=True)
            kernel = _gemm(self.tape, f"{self.layer.name}_dx", transposed, "linear", False)
            self.tape.call(kernel, dy, other, dx)
        if self.layer.trainable:
            self.tape.follow(self.layer.name, partial(self._update, transposed), (x, dy))
        return dx

    def _keep_transposed(self, layout: PanelLayout) -> Value:
        kernel = self.layer.weights["kernel"]

        def fill(out: NDArray[Any]) -> None:
            pack_kernel(np.ascontiguousarray(kernel.T), layout, out)

        packed = Packed((layout.size,), self.layer.dtype, fill, layout.describe())
        return self.tape.keep(f"{self.layer.name}/kernel^T", packed, "derived", kernel.T.shape)

    def _update(self, layout: PanelLayout, uses: list[tuple[Value, Value]]) -> None:
        """layout: of W^T, where a gradient is a product with it."""
        tape, name, optimizer = self.tape, self.layer.name, self.tape.optimizer
        x, dy = (
            joined(tape, self.layer.describe(), values, 1) for values in zip(*uses, strict=True)
        )
        transposed = layout if f"{name}/kernel^T" in tape.kept else None
        begin = getattr(optimizer, "initial_accumulator_value", 0.0)
        lanes, dtype, rule = (
            tape.target.lanes(self.layer.dtype),
            self.layer.dtype,
            rule_of(optimizer),
        )
        weights = [each for each in (self.kernel, self.bias) if each is not None]
        clip = Clip.of(tape, [weight.name for weight in weights], of_table=False)
        own, *of_bias = clip.rules(rule) or [rule]
        spec = DenseUpdate(self.layout, transposed, own, lanes, self.layer.use_bias, *of_bias)
        values = [x, dy]
        if spec.is_padded:
            first, width = self.layout.full_panels * self.layout.width, self.layout.tail_width
            padded = tape.value(f"{name}_dy_tail", (*dy.dims[:-1], width), dtype)
            kernel = padded_columns(tape.name("padded"), self.layout.n, first, width, dtype)
            tape.call(kernel, dy, padded)
            values.append(padded)
        if clip.norms:
            alone = DenseUpdate(self.layout, None, collecting(), lanes, self.layer.use_bias)
            units = dense_update(tape.name(f"{name}_gradient"), alone)
            # It has no numbers: any pointer will do.
            tape.collect(units, *values, *clip.gradients(tape, weights), x, n=x.dims[:-1])
        for weight in weights:
            values += [weight, *tape.states(weight, optimizer.state, begin)]
        if transposed is not None:
            values.append(tape.weight(f"{name}/kernel^T"))
        values.append(tape.numbers_of(dtype, of_table=False, norms=clip.norms))
        units = dense_update(tape.name(f"{name}_update"), spec)
        tape.update(units, *values, n=x.dims[:-1])


def _layout(tape: Tape, k: int, n: int, dtype: str) -> PanelLayout:
    target = tape.target
    width = gemm.panel_width(k, n, dtype, target)
    return panel_layout(k, n, width=width, lanes=target.lanes(dtype), dtype=dtype)


def _gemm(tape: Tape, name: str, layout: PanelLayout, activation: Any, use_bias: bool) -> Kernel:
    """The product with a weight of that layout."""
    workload = Workload.make(
        "dense", m=1, k=layout.k, n=layout.n, dtype=layout.dtype, activation="linear"
    )
    regimes = block_regimes(tape.selector, workload)
    name = tape.name(name)
    spec = gemm_spec(
        layout,
        layout.dtype,
        regimes,
        tape.target,
        activation=elementwise_function(activation),
        cheap=activation in CHEAP,
        use_bias=use_bias,
    )
    entry, functions = gemm_functions(name, spec, None)
    return Kernel(name, entry, functions, lambda shapes: [elements(shapes[0][:-1])])
