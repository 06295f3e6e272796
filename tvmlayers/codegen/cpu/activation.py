"""Activations by themselves, and softmax as the last step of a Dense."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm import s_tir
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc

from tvmlayers import layers
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.kernel import (
    Functions,
    Lowered,
    Use,
    core,
    elements,
    in_halves,
    report,
)
from tvmlayers.codegen.cpu.rows import (
    Pointer,
    call_core,
    call_streamed,
    fixed,
    row_kernel,
    streamed_rows,
)
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.dtypes import is_half, numpy_dtype, wide
from tvmlayers.errors import ConfigError
from tvmlayers.expr.activations import ACTIVATIONS, ROW_ACTIVATIONS
from tvmlayers.expr.elementwise import elementwise
from tvmlayers.expr.expression import Expression
from tvmlayers.expr.softmax import narrow_softmax, short_softmax, softmax
from tvmlayers.expr.stored import copied_as, read_as
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
    name: str,
    n: int,
    kind: object,
    dtype: str,
    selector: Selector,
    functions: Functions,
    *,
    of_sums: bool = False,
) -> tuple[GlobalVar, Regime]:
    """softmax or log_softmax of rows of n, added to `functions`; and its decisions.

    In place where x and the result are of one dtype. of_sums: x is float32 where the result is a
    half.
    """
    target, computed = selector.target, wide(dtype)
    regime = selector.decide(Workload.make("softmax", m=TYPICAL_ROWS, n=n, dtype=dtype))
    lanes, log = target.lanes(computed), kind == "log_softmax"

    def add(label: str, made: Expression, schedule: Callable[[s_tir.Schedule], None]) -> GlobalVar:
        kept = in_halves(made, dtype, but=["x"] if of_sums else [])
        added, function = core(label, made, schedule, in_place=True, kept=kept)
        functions[added] = function
        return added

    if n <= lanes:
        tiled = narrow_softmax(n, lanes=lanes, log=log, dtype=computed)
        tiles = add(f"{name}_tiles", tiled, row_spaces.softmax_columns)
        short = short_softmax(n, log=log, dtype=computed)
        one = add(f"{name}_short", short, row_spaces.softmax_short)
        driver = GlobalVar(name)
        dtypes = (computed if of_sums else read_as(dtype), read_as(dtype))
        functions[driver] = _by_tiles(tiles, one, lanes, *dtypes)
        return driver, regime
    return add(name, *_by_vectors(n, kind, computed, regime, target)), regime


def _by_vectors(
    n: int, kind: object, dtype: str, regime: Regime, target: Target
) -> tuple[Expression, Callable[[s_tir.Schedule], None]]:
    """The softmax of rows that are longer than a vector, and its schedule."""
    lanes = _lanes(n, dtype, regime, target)
    row_bytes = 2 * (n + lanes) * numpy_dtype(dtype).itemsize
    expression = softmax(n, lanes=lanes, log=kind == "log_softmax", dtype=dtype)
    return expression, partial(row_spaces.softmax_rows, row_bytes=row_bytes)


def _lanes(n: int, dtype: str, regime: Regime, target: Target) -> int:
    """Of the vectors that a long row is gone over in."""
    lanes = target.lanes(dtype)
    return lanes * min(int(regime.decisions["vectors"]), n // lanes)


def _by_tiles(tiles: GlobalVar, short: GlobalVar, lanes: int, of_x: str, of_out: str) -> PrimFunc:
    """`f(x, out, count)`: tiles of rows side by side, or few rows one by one.

    A tile takes as long as three quarters of its rows do alone, 2 to 16 columns on AVX-512.
    """

    def body() -> None:
        x, out = emit.argument("x", f"*{of_x}"), emit.argument("out", f"*{of_out}")
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
    if layer.activation in ROW_ACTIVATIONS:
        return _softmax(name, use.fixed(-1), layer, dtype, selector, use)
    functions: Functions = {}
    expression = elementwise(elementwise_function(layer.activation), wide(dtype))
    kept = in_halves(expression, dtype)
    made, function = core(f"{name}_rows", expression, row_spaces.plain, kept=kept)
    functions[made] = function
    pointers = [Pointer(each, read_as(dtype), fixed(1)) for each in ("x", "out")]
    kernel = row_kernel(
        name,
        functions,
        pointers,
        ["count"],
        4 * numpy_dtype(dtype).itemsize,
        call_core(made, pointers),
        lambda shapes: [elements(shapes[0])],
        {"kind": "activation", "layer": layer.name, "dtype": dtype},
    )
    return Lowered(kernel, ())


def softmax_of_sums(name: str, n: int, layer: layers.Dense, selector: Selector) -> Lowered:
    """The softmax of a layer of halves, of its sums in float32."""
    return _softmax(name, n, layer, layer.dtype, selector)


def _softmax(
    name: str,
    n: int,
    layer: layers.Activation | layers.Dense,
    dtype: str,
    selector: Selector,
    use: Use | None = None,
) -> Lowered:
    """A softmax as a kernel of its own: of the sums of a Dense where there is no `use`."""
    functions: Functions = {}
    kind, target, of_sums = layer.activation, selector.target, use is None
    made, regime = softmax_core(
        f"{name}_rows", n, kind, dtype, selector, functions, of_sums=of_sums
    )
    given = wide(dtype) if of_sums else dtype
    moved = n * (numpy_dtype(given).itemsize + numpy_dtype(dtype).itemsize)
    pointers = [
        Pointer(each, read_as(held), fixed(n)) for each, held in (("x", given), ("out", dtype))
    ]
    streamed, row_bytes = None, n * numpy_dtype(dtype).itemsize
    if use is not None and n > target.lanes(dtype):
        rows = _by_vectors(n, kind, dtype, regime, target)
        vector_bytes = _lanes(n, dtype, regime, target) * row_bytes // n
        make = partial(core, f"{name}_streamed", *rows)
        streamed = streamed_rows(use, make, row_bytes, vector_bytes, target)
        functions.update(streamed.functions if streamed else {})
    workload = Workload.make("softmax", m=1, n=n, dtype=dtype)
    kernel = row_kernel(
        name,
        functions,
        pointers,
        ["count"],
        2 * moved,
        call_streamed(call_core(made, pointers), streamed, pointers, row_bytes),
        lambda shapes: [elements(shapes[0][:-1])],
        report(workload, [regime], layer.name, flops=4 * n, bytes_per_item=moved),
        by_choice([regime], "grain_kib"),
    )
    if of_sums:  # the layer has a row of the report already
        kernel.report = {}
    return Lowered(kernel, ())


def lower_copy(name: str, given: str, wanted: str) -> Lowered:
    """A tensor of any shape copied as it is, or in another dtype, to or from a half."""
    functions: Functions = {}
    held = {"x": given, "out": wanted}
    if given == wanted:
        kept, computed = {}, copied_as(given)
        elements_as = dict.fromkeys(held, computed)
    else:
        kept = {each: dtype for each, dtype in held.items() if is_half(dtype)}
        computed, elements_as = "float32", {each: read_as(dtype) for each, dtype in held.items()}
    expression = elementwise(ACTIVATIONS["linear"], computed)
    made, function = core(f"{name}_elements", expression, row_spaces.plain, kept=kept)
    functions[made] = function
    pointers = [Pointer(each, element, fixed(1)) for each, element in elements_as.items()]
    cost = sum(numpy_dtype(element).itemsize for element in elements_as.values())
    work = call_core(made, pointers)
    kernel = row_kernel(
        name, functions, pointers, ["count"], cost, work, lambda shapes: [elements(shapes[0])], {}
    )
    kernel.report = {}
    return Lowered(kernel, ())
