"""Activations by themselves, and softmax as the last step of a Dense."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from tvm import s_tir
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc

from tvmlayers import layers
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.kernel import Functions, Lowered, Use, core, elements, report
from tvmlayers.codegen.cpu.rows import (
    UNTUNED_GRAIN,
    Pointer,
    call_core,
    call_streamed,
    fixed,
    row_kernel,
    streamed_rows,
)
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.errors import ConfigError
from tvmlayers.expr.activations import ACTIVATIONS, ROW_ACTIVATIONS
from tvmlayers.expr.elementwise import elementwise
from tvmlayers.expr.expression import Expression
from tvmlayers.expr.softmax import narrow_softmax, short_softmax, softmax
from tvmlayers.schedule import Regime, Selector, by_choice
from tvmlayers.spaces import rows as row_spaces
from tvmlayers.targets import Target
from tvmlayers.workload import Workload

# The decisions of a softmax hardly depend on how many rows there are.
TYPICAL_ROWS = 256


def elementwise_function(activation: Any) -> Callable[[Expr], Expr]:
    """The activation of that name, or the caller's own with its result checked."""
    if not callable(activation):
        return ACTIVATIONS[activation]

    def checked(x: Expr) -> Expr:
        try:
            result = activation(x)
        except AttributeError as error:
            raise ConfigError(
                f"the activation {activation!r} failed on a tensor expression: {error} "
                "(its dtype is x.ty.dtype)"
            ) from error
        if not isinstance(result, Expr):
            raise ConfigError(
                f"an activation maps a tensor expression to a tensor expression, "
                f"{activation!r} gave {type(result).__name__}"
            )
        return result

    return checked


def softmax_core(
    name: str, n: int, kind: object, dtype: str, selector: Selector, functions: Functions
) -> tuple[GlobalVar, Regime]:
    """softmax or log_softmax of rows of n, in place, added to `functions`; and its decisions."""
    target = selector.target
    regime = selector.decide(Workload.make("softmax", m=TYPICAL_ROWS, n=n, dtype=dtype))
    lanes, log = target.lanes(dtype), kind == "log_softmax"
    if n <= lanes:
        tiled = narrow_softmax(n, lanes=lanes, log=log, dtype=dtype)
        made, function = core(f"{name}_tiles", tiled, row_spaces.softmax_columns, in_place=True)
        functions[made] = function
        short = short_softmax(n, log=log, dtype=dtype)
        one, function = core(f"{name}_short", short, row_spaces.softmax_short, in_place=True)
        functions[one] = function
        driver = GlobalVar(name)
        functions[driver] = _by_tiles(made, one, lanes, dtype)
        return driver, regime
    made, functions[made] = core(name, *_by_vectors(n, kind, dtype, regime, target), in_place=True)
    return made, regime


def _by_vectors(
    n: int, kind: object, dtype: str, regime: Regime, target: Target
) -> tuple[Expression, Callable[[s_tir.Schedule], None]]:
    """The softmax of rows that are longer than a vector, and its schedule."""
    lanes = _lanes(n, dtype, regime, target)
    row_bytes = 2 * (n + lanes) * np.dtype(dtype).itemsize
    expression = softmax(n, lanes=lanes, log=kind == "log_softmax", dtype=dtype)
    return expression, partial(row_spaces.softmax_rows, row_bytes=row_bytes)


def _lanes(n: int, dtype: str, regime: Regime, target: Target) -> int:
    """Of the vectors that a long row is gone over in."""
    lanes = target.lanes(dtype)
    return lanes * min(int(regime.decisions["vectors"]), n // lanes)


def _by_tiles(tiles: GlobalVar, short: GlobalVar, lanes: int, dtype: str) -> PrimFunc:
    """`f(x, out, count)`: tiles of rows side by side, or few rows one by one.

    A tile takes as long as three quarters of its rows do alone, 2 to 16 columns on AVX-512.
    """

    def body() -> None:
        x, out = emit.argument("x", f"*{dtype}"), emit.argument("out", f"*{dtype}")
        count = emit.argument("count", "int64")
        emit.chain(
            [
                (count <= emit.i64(lanes * 3 // 4), lambda: emit.call(short, x, out, count)),
                (None, lambda: emit.call(tiles, x, out, count, emit.ceil_div(count, lanes))),
            ]
        )

    return emit.private(body)


def lower_activation(use: Use, name: str, selector: Selector, _arena: ArenaPlan) -> Lowered:
    layer, dtype = use.layer, use.dtype(0)
    assert isinstance(layer, layers.Activation)
    functions: Functions = {}
    itemsize = np.dtype(dtype).itemsize
    grains, streamed = UNTUNED_GRAIN, None
    described: dict[str, Any] = {"kind": "activation", "layer": layer.name, "dtype": dtype}
    if layer.activation in ROW_ACTIVATIONS:
        n = use.fixed(-1)
        made, regime = softmax_core(f"{name}_rows", n, layer.activation, dtype, selector, functions)
        grains = by_choice([regime], "grain_kib")
        target = selector.target
        if n > target.lanes(dtype):
            rows = _by_vectors(n, layer.activation, dtype, regime, target)
            streamed = streamed_rows(
                use,
                partial(core, f"{name}_streamed", *rows),
                n * itemsize,
                _lanes(n, dtype, regime, target) * itemsize,
                target,
            )
        workload = Workload.make("softmax", m=1, n=n, dtype=dtype)
        described = report(
            workload, [regime], layer.name, flops=4 * n, bytes_per_item=2 * n * itemsize
        )
    else:
        n = 1
        expression = elementwise(elementwise_function(layer.activation), dtype)
        made, function = core(f"{name}_rows", expression, row_spaces.plain)
        functions[made] = function
    if streamed is not None:
        functions[streamed.name] = streamed.function
    pointers = [Pointer("x", dtype, fixed(n)), Pointer("out", dtype, fixed(n))]
    kernel = row_kernel(
        name,
        functions,
        pointers,
        ["count"],
        4 * n * itemsize,
        call_streamed(call_core(made, pointers), streamed, pointers, n * itemsize),
        lambda shapes: [elements(shapes[0][:-1] if n > 1 else shapes[0])],
        described,
        grains,
    )
    return Lowered(kernel, ())


def lower_copy(name: str, dtype: str) -> Lowered:
    """A tensor of any shape copied as it is."""
    functions: Functions = {}
    made, function = core(
        f"{name}_elements", elementwise(ACTIVATIONS["linear"], dtype), row_spaces.plain
    )
    functions[made] = function
    pointers = [Pointer("x", dtype, fixed(1)), Pointer("out", dtype, fixed(1))]
    cost = 2 * np.dtype(dtype).itemsize
    work = call_core(made, pointers)
    kernel = row_kernel(
        name, functions, pointers, ["count"], cost, work, lambda shapes: [elements(shapes[0])], {}
    )
    kernel.report = {}
    return Lowered(kernel, ())
