"""Embedding as a kernel: rows shared out among threads; and what bags have in common with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import te
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc, Var

from tvmlayers import layers
from tvmlayers.build import emit
from tvmlayers.build.kernels.kernel import (
    Functions,
    Kernel,
    Lowered,
    Use,
    core,
    elements,
    report,
)
from tvmlayers.build.kernels.rows import Pointer, fixed, row_driver
from tvmlayers.build.streaming import starts_at_multiple, stream_from
from tvmlayers.build.weights import ArenaPlan
from tvmlayers.expr.expression import Expression
from tvmlayers.expr.take import take
from tvmlayers.schedule import Regime, Selector, by_choice
from tvmlayers.spaces.lookup import run_lengths, stream_lanes, take_rows
from tvmlayers.targets import Target
from tvmlayers.workload import Workload


def lower_embedding(use: Use, name: str, selector: Selector, arena: ArenaPlan) -> Lowered:
    layer = use.layer
    assert isinstance(layer, layers.Embedding)
    table = arena.add_as_is(f"{layer.name}/embeddings", layer.weights["embeddings"])
    kernel = _take_kernel(name, layer, use.index_dtype, selector, leaves=use.leaves)
    return Lowered(kernel, (table,))


@dataclass(frozen=True)
class Variants:
    """One function for each different way to make it, and which serves how many indices."""

    functions: Functions
    names: list[GlobalVar]
    by_count: list[tuple[int | None, int]]

    def call(self, count: Expr, *arguments: Expr) -> None:
        """A call of the variant for `count` indices."""
        last = len(self.by_count) - 1
        emit.chain(
            [
                (
                    None if i == last or most is None else count <= emit.i64(most),
                    partial(emit.call, self.names[place], *arguments),
                )
                for i, (most, place) in enumerate(self.by_count)
            ]
        )


def variants_of(
    name: str,
    expression: Expression,
    regimes: Sequence[Regime],
    schedule: Callable[..., None],
) -> Variants:
    made: dict[tuple[Any, Any], int] = {}
    functions: Functions = {}
    by_count: list[tuple[int | None, int]] = []
    for regime in regimes:
        prefetch = int(regime.decisions["prefetch_rows"])
        key = regime.decisions["unrolled_vectors"], prefetch
        if key not in made:
            made[key] = len(made)
            function_name, function = core(
                f"{name}{made[key]}",
                expression,
                partial(schedule, decisions=regime.decisions),
                prefetch=prefetch,
            )
            functions[function_name] = function
        if by_count and by_count[-1][1] == made[key]:
            by_count[-1] = regime.most, made[key]
        else:
            by_count.append((regime.most, made[key]))
    return Variants(functions, list(functions), by_count)


def _take_kernel(
    name: str, layer: layers.Embedding, index_dtype: str, selector: Selector, *, leaves: bool
) -> Kernel:
    """`f(indices, table, out, [flag], count, threads)`; leaves: see `Use`."""
    rows, width, dtype = layer.input_dim, layer.output_dim, layer.dtype
    target = selector.target
    lanes = target.lanes(dtype)
    workload = Workload.make("embedding", indices=1, rows=rows, width=width, dtype=dtype)
    regimes = selector.regimes(workload)
    expression = take(rows, width, oob=layer.oob, index_dtype=index_dtype, dtype=dtype)
    variants = variants_of(
        f"{name}_rows",
        expression,
        regimes,
        lambda sch, decisions: take_rows(sch, lanes=lanes, width=width, decisions=decisions),
    )
    row_bytes = width * target.vector_bytes // lanes
    streamed = None
    if leaves:
        streamed = _streamed(f"{name}_stream", expression, regimes[-1], width, dtype, target)
    pointers = [
        Pointer("indices", index_dtype, fixed(1)),
        Pointer("table", dtype, fixed(0)),
        Pointer("out", dtype, fixed(width)),
        *flag_pointer(layer.oob),
    ]

    def work(given: dict[str, Var], scalars: dict[str, Var], first: Expr, last: Expr) -> None:
        arguments = [
            emit.offset(given["indices"], first),
            given["table"],
            emit.offset(given["out"], first * emit.i64(width)),
            *([given["flag"]] if layer.oob == "raise" else []),
            last - first,
            scalars["count"] - first,
        ]
        call = partial(variants.call, scalars["count"], *arguments)
        if streamed is None:
            return call()
        fits = streamed.fits(scalars["count"] * emit.i64(row_bytes), given["out"])
        emit.chain([(fits, partial(emit.call, streamed.name, *arguments)), (None, call)])

    driver = GlobalVar(name)
    functions = variants.functions
    if streamed is not None:
        functions[streamed.name] = streamed.function
    functions[driver] = row_driver(
        pointers,
        ["count"],
        lambda s: s["count"] * emit.i64(2 * row_bytes),
        by_choice(regimes, "grain_kib"),
        work,
    )
    return Kernel(
        name,
        driver,
        functions,
        scalars=lambda shapes: [elements(shapes[0])],
        checks=index_checks(layer),
        report={
            **report(workload, regimes, layer.name, flops=0, bytes_per_item=2 * row_bytes),
            "index_dtype": index_dtype,
        },
    )


@dataclass(frozen=True)
class Streamed:
    """A function that looks rows up for a large result, which it writes past the caches.

    least: the bytes of such a result; vector_bytes: of what its start must be a multiple.
    """

    name: GlobalVar
    function: PrimFunc
    least: int
    vector_bytes: int

    def fits(self, size: Expr, out: Var) -> Expr:
        """Whether it can and should write `size` bytes to `out`."""
        return te.all(size >= emit.i64(self.least), starts_at_multiple(out, self.vector_bytes))


def _streamed(
    name: str, expression: Expression, regime: Regime, width: int, dtype: str, target: Target
) -> Streamed | None:
    """None where the target has no such stores, or rows that no whole vectors make up."""
    itemsize = target.vector_bytes // target.lanes(dtype)
    lanes = stream_lanes(width, dtype, target)
    if lanes is None:
        return None
    run = run_lengths(width // lanes)[-1]
    decisions = {**regime.decisions, "unrolled_vectors": run}
    global_var, function = core(
        name,
        expression,
        lambda sch: take_rows(sch, lanes=lanes, width=width, decisions=decisions),
        prefetch=int(decisions["prefetch_rows"]),
        streamed="out",
    )
    return Streamed(global_var, function, stream_from(target), lanes * itemsize)


def flag_pointer(oob: str) -> list[Pointer]:
    return [Pointer("flag", "int32", fixed(0))] if oob == "raise" else []


def index_checks(layer: layers.Embedding | layers.EmbeddingBag) -> tuple[dict[str, Any], ...]:
    if layer.oob != "raise":
        return ()
    return ({"layer": layer.name, "kind": "index", "rows": layer.input_dim},)
