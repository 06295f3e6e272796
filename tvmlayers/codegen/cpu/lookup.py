"""Embedding as a kernel: rows shared out among threads; and what bags have in common with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import gcd
from typing import Any

import numpy as np
from tvm import s_tir
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var

from tvmlayers import layers
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.kernel import (
    Functions,
    Kernel,
    Lowered,
    Use,
    core,
    elements,
    report,
)
from tvmlayers.codegen.cpu.rows import Pointer, Streamed, fixed, row_driver
from tvmlayers.codegen.streaming import stream_from
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.dtypes import numpy_dtype
from tvmlayers.expr.expression import Expression
from tvmlayers.expr.stored import copied_as, table_as
from tvmlayers.expr.take import take_vectors
from tvmlayers.quantization.rows import CODED
from tvmlayers.quantization.rows import row_bytes as bytes_of_row
from tvmlayers.schedule import Regime, Selector, by_choice
from tvmlayers.spaces.choices import Decisions
from tvmlayers.spaces.lookup import row_lanes, run_lengths, stream_lanes, take_rows
from tvmlayers.targets import Target
from tvmlayers.workload import Workload

Table = layers.Embedding | layers.EmbeddingBag


def lower_embedding(use: Use, name: str, selector: Selector, arena: ArenaPlan) -> Lowered:
    layer = use.layer
    assert isinstance(layer, layers.Embedding)
    table = add_table(layer, arena)
    kernel = _take_kernel(name, layer, use.index_dtype, selector, leaves=use.leaves)
    return Lowered(kernel, (table,))


def add_table(layer: Table, arena: ArenaPlan) -> str:
    """The name in the arena of a layer's table, as kernels read it."""
    table = layer.rounded_weights()["embeddings"]
    bits = table.view(np.uint16) if layer.is_quantized and layer.stored == "bfloat16" else table
    return arena.add_as_is(f"{layer.name}/embeddings", bits)


def table_pointer(layer: Table) -> Pointer:
    """The parameter of a kernel's driver that is the table."""
    return Pointer("table", table_as(layer.stored), fixed(0))


def table_arguments(layer: Table, table: Var, column: Expr | int = 0) -> list[Expr]:
    """The table as a function over rows takes it, from a column on."""
    coded = CODED.get(layer.stored)
    tail = [emit.offset(table, coded.code_bytes(layer.output_dim))] if coded else []
    return [emit.offset(table, column), *tail]


def table_report(layer: Table) -> dict[str, Any]:
    """What the report says of a table in fewer bits: how far a number of a row may be off."""
    return layer.error_report("row_error_bound")


@dataclass(frozen=True)
class Variant:
    """One way to make a kernel's function; least: the fewest rows that it can be called for."""

    name: GlobalVar
    least: int


@dataclass(frozen=True)
class Variants:
    """One function for each different way to make it, and which serves how many indices.

    any_rows: the one that serves where a thread's share has too few rows for the chosen one.
    """

    functions: Functions
    made: list[Variant]
    by_count: list[tuple[int | None, int]]
    any_rows: Variant | None

    def call(self, count: Expr, write: Callable[[Variant], None], rows: Expr | None = None) -> None:
        """`write` calls the variant for `count` indices, of which a thread has `rows`."""

        def one(place: int) -> None:
            chosen = self.made[place]
            if chosen.least == 1 or rows is None or self.any_rows is None:
                return write(chosen)
            few = self.any_rows
            emit.chain(
                [
                    (rows >= emit.i64(chosen.least), lambda: write(chosen)),
                    (None, lambda: write(few)),
                ]
            )

        *bounded, (_, last) = self.by_count
        emit.chain(
            [
                *((count <= emit.i64(most or 0), partial(one, place)) for most, place in bounded),
                (None, partial(one, last)),
            ]
        )


# What a function over rows is made of: what it computes, how it is scheduled, and which of its
# tensors are kept in halves.
Made = tuple[Expression, Callable[[s_tir.Schedule], None], Mapping[str, str]]
_MAKING = (
    "vector_bytes",
    "rows_in_flight",
    "unrolled_vectors",
    "prefetch_rows",
    "prefetch_stride",
)


def variants_of(
    name: str, regimes: Sequence[Regime], make: Callable[[Decisions], Made]
) -> Variants:
    """The functions that the decisions of the regimes make, by `make`."""
    places: dict[tuple[Any, ...], int] = {}
    functions: Functions = {}
    made: list[Variant] = []
    by_count: list[tuple[int | None, int]] = []

    def place_of(decisions: Decisions) -> int:
        key = tuple(decisions.get(each) for each in _MAKING)
        if key not in places:
            places[key] = len(made)
            expression, schedule, kept = make(decisions)
            function_name, functions_body = core(
                f"{name}{len(made)}",
                expression,
                schedule,
                kept=kept,
                **_prefetch(decisions),
            )
            functions[function_name] = functions_body
            made.append(Variant(function_name, _in_flight(decisions)))
        return places[key]

    for regime in regimes:
        place = place_of(regime.decisions)
        if by_count and by_count[-1][1] == place:
            by_count[-1] = regime.most, place
        else:
            by_count.append((regime.most, place))
    several = [regime.decisions for regime in regimes if _in_flight(regime.decisions) > 1]
    any_rows = made[place_of({**several[0], "rows_in_flight": 1})] if several else None
    return Variants(functions, made, by_count, any_rows)


def _prefetch(decisions: Decisions) -> dict[str, Any]:
    """What `private_function` has to know of rows that are asked for ahead."""
    return {
        "prefetch": int(decisions["prefetch_rows"]),
        "prefetch_stride": int(decisions["prefetch_stride"]),
    }


def _in_flight(decisions: Decisions) -> int:
    return int(decisions.get("rows_in_flight", 1))


def _take_kernel(
    name: str, layer: layers.Embedding, index_dtype: str, selector: Selector, *, leaves: bool
) -> Kernel:
    """`f(indices, table, out, [flag], count, threads)`; leaves: see `Use`."""
    rows, width, dtype = layer.input_dim, layer.output_dim, copied_as(layer.dtype)
    target = selector.target
    sizes = {"indices": 1, "rows": rows, "width": width}
    workload = Workload.make("embedding", **sizes, dtype=layer.dtype, stored=layer.stored)
    regimes = selector.regimes(workload)

    def make(lanes: int, decisions: Decisions) -> Made:
        vectors = -(-width // lanes)
        run = gcd(int(decisions["unrolled_vectors"]), vectors)
        expression = take_vectors(
            rows,
            width,
            lanes=lanes,
            in_flight=int(decisions["rows_in_flight"]),
            oob=layer.oob,
            index_dtype=index_dtype,
            dtype=dtype,
            stored=layer.stored if layer.is_quantized else None,
        )
        decided = {**decisions, "unrolled_vectors": run}
        return expression, partial(take_rows, vectors=vectors, decisions=decided), {}

    variants = variants_of(
        f"{name}_rows",
        regimes,
        lambda decisions: make(
            row_lanes(width, dtype, int(decisions["vector_bytes"]), layer.stored), decisions
        ),
    )
    row_bytes = width * numpy_dtype(dtype).itemsize
    moved = row_bytes + bytes_of_row(width, layer.stored)
    streamed = None
    if leaves and layer.stored != "int4":  # whose vectors are every second column
        streamed = _streamed(f"{name}_stream", make, regimes[-1], width, dtype, target)
    pointers = [
        Pointer("indices", index_dtype, fixed(1)),
        table_pointer(layer),
        Pointer("out", dtype, fixed(width)),
        *flag_pointer(layer.oob),
    ]

    def work(given: dict[str, Var], scalars: dict[str, Var], first: Expr, last: Expr) -> None:
        here = last - first
        arguments = [
            emit.offset(given["indices"], first),
            *table_arguments(layer, given["table"]),
            emit.offset(given["out"], first * emit.i64(width)),
            *([given["flag"]] if layer.oob == "raise" else []),
            here,
            scalars["count"] - first,
        ]

        def one(variant: Variant) -> None:
            emit.call(variant.name, *arguments, emit.ceil_div(here, variant.least))

        call = partial(variants.call, scalars["count"], one, here)
        if streamed is None:
            return call()
        fits = streamed.fits(scalars["count"] * emit.i64(row_bytes), given["out"])
        stream = partial(emit.call, streamed.name, *arguments, here)
        emit.chain([(fits, stream), (None, call)])

    driver = GlobalVar(name)
    functions = variants.functions
    if streamed is not None:
        functions[streamed.name] = streamed.function
    functions[driver] = row_driver(
        pointers,
        ["count"],
        lambda s: s["count"] * emit.i64(moved),
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
            **report(workload, regimes, layer.name, flops=0, bytes_per_item=moved),
            **table_report(layer),
            "index_dtype": index_dtype,
        },
    )


def _streamed(
    name: str,
    make: Callable[[int, Decisions], Made],
    regime: Regime,
    width: int,
    dtype: str,
    target: Target,
) -> Streamed | None:
    """None where the target has no such stores, or rows that no whole vectors make up."""
    lanes = stream_lanes(width, dtype, target)
    if lanes is None:
        return None
    run = run_lengths(width // lanes)[-1]
    decisions = {**regime.decisions, "unrolled_vectors": run, "rows_in_flight": 1}
    expression, schedule, _ = make(lanes, decisions)
    global_var, function = core(name, expression, schedule, streamed="out", **_prefetch(decisions))
    return Streamed(global_var, function, stream_from(target), lanes * numpy_dtype(dtype).itemsize)


def flag_pointer(oob: str) -> list[Pointer]:
    return [Pointer("flag", "int32", fixed(0))] if oob == "raise" else []


def index_checks(layer: Table) -> tuple[dict[str, Any], ...]:
    if layer.oob != "raise":
        return ()
    return ({"layer": layer.name, "kind": "index", "rows": layer.input_dim},)
