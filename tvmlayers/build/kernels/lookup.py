"""Embedding and EmbeddingBag as kernels: rows shared out among threads, bags walked one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var

from tvmlayers import layers
from tvmlayers.build import emit
from tvmlayers.build.fuse import PooledLookup
from tvmlayers.build.kernels.kernel import (
    Functions,
    Kernel,
    Lowered,
    Use,
    axis,
    core,
    elements,
    report,
)
from tvmlayers.build.kernels.rows import Pointer, fixed, row_driver
from tvmlayers.build.weights import ArenaPlan
from tvmlayers.expr.expression import Expression
from tvmlayers.expr.take import bag, take
from tvmlayers.schedule import Regime, Selector, by_choice
from tvmlayers.spaces.lookup import bag_lanes, bag_rows, take_rows
from tvmlayers.workload import Workload


def lower_embedding(use: Use, name: str, selector: Selector, arena: ArenaPlan) -> Lowered:
    layer = use.layer
    assert isinstance(layer, layers.Embedding)
    table = arena.add_as_is(f"{layer.name}/embeddings", layer.weights["embeddings"])
    kernel = _take_kernel(name, layer, use.index_dtype, selector)
    return Lowered(kernel, (table,))


def lower_embedding_bag(use: Use, name: str, selector: Selector, arena: ArenaPlan) -> Lowered:
    layer = use.layer
    assert isinstance(layer, layers.EmbeddingBag)
    table = arena.add_as_is(f"{layer.name}/embeddings", layer.weights["embeddings"])
    spec = Bag(layer, layer.mode, layer.padding_idx, layer.include_last_offset)
    return Lowered(_bag_kernel(name, spec, use.roles, use.index_dtype, selector), (table,))


def lower_pooled_lookup(use: Use, name: str, selector: Selector, arena: ArenaPlan) -> Lowered:
    assert isinstance(use.layer, PooledLookup)
    layer = use.layer.embedding
    table = arena.add_as_is(f"{layer.name}/embeddings", layer.weights["embeddings"])
    spec = Bag(layer, "mean", 0 if use.layer.masked else None, empty_is_zero=False)
    return Lowered(_bag_kernel(name, spec, use.roles, use.index_dtype, selector), (table,))


@dataclass(frozen=True)
class Bag:
    """What the bag kernel computes with the table of `layer`."""

    layer: layers.Embedding | layers.EmbeddingBag
    mode: str
    padding_idx: int | None
    include_last_offset: bool = False
    empty_is_zero: bool = True


@dataclass(frozen=True)
class _Variants:
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


def _variants(
    name: str,
    expression: Expression,
    regimes: Sequence[Regime],
    schedule: Callable[..., None],
) -> _Variants:
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
    return _Variants(functions, list(functions), by_count)


def _take_kernel(
    name: str, layer: layers.Embedding, index_dtype: str, selector: Selector
) -> Kernel:
    """`f(indices, table, out, [flag], count, threads)`."""
    rows, width, dtype = layer.input_dim, layer.output_dim, layer.dtype
    target = selector.target
    lanes = target.lanes(dtype)
    workload = Workload.make("embedding", indices=1, rows=rows, width=width, dtype=dtype)
    regimes = selector.regimes(workload)
    variants = _variants(
        f"{name}_rows",
        take(rows, width, oob=layer.oob, index_dtype=index_dtype, dtype=dtype),
        regimes,
        lambda sch, decisions: take_rows(sch, lanes=lanes, width=width, decisions=decisions),
    )
    pointers = [
        Pointer("indices", index_dtype, fixed(1)),
        Pointer("table", dtype, fixed(0)),
        Pointer("out", dtype, fixed(width)),
        *_flag(layer.oob),
    ]

    def work(given: dict[str, Var], scalars: dict[str, Var], first: Expr, last: Expr) -> None:
        variants.call(
            scalars["count"],
            emit.offset(given["indices"], first),
            given["table"],
            emit.offset(given["out"], first * emit.i64(width)),
            *([given["flag"]] if layer.oob == "raise" else []),
            last - first,
            scalars["count"] - first,
        )

    driver = GlobalVar(name)
    row_bytes = width * target.vector_bytes // lanes
    functions = variants.functions
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


def _bag_kernel(
    name: str, spec: Bag, roles: tuple[str, ...], index_dtype: str, selector: Selector
) -> Kernel:
    """`f(indices, [offsets], [weights], table, out, flags, bags, total, [length], threads)`.

    Without offsets every bag has `length` indices. Offsets that do not start at 0, decrease or
    run past the end set the flag, and such a bag counts as empty.
    """
    layer = spec.layer
    rows, width, dtype = layer.input_dim, layer.output_dim, layer.dtype
    ragged, weighted = "offsets" in roles, "per_sample_weights" in roles
    target = selector.target
    lanes = bag_lanes(width, target.lanes(dtype))
    vectors = -(-width // lanes)
    expression = bag(
        rows,
        width,
        lanes=lanes,
        mode=spec.mode,
        oob=layer.oob,
        padding_idx=spec.padding_idx,
        empty_is_zero=spec.empty_is_zero,
        weighted=weighted,
        index_dtype=index_dtype,
        dtype=dtype,
    )
    workload = Workload.make("bag", indices=1, rows=rows, width=width, dtype=dtype, mode=spec.mode)
    regimes = selector.regimes(workload)
    variants = _variants(
        f"{name}_bag",
        expression,
        regimes,
        lambda sch, decisions: bag_rows(sch, vectors=vectors, decisions=decisions),
    )
    pointers = [Pointer("indices", index_dtype, fixed(0))]
    if ragged:
        pointers.append(Pointer("offsets", index_dtype, fixed(0)))
    if weighted:
        pointers.append(Pointer("weights", dtype, fixed(0)))
    pointers += [Pointer("table", dtype, fixed(0)), Pointer("out", dtype, fixed(width))]
    pointers += _flag(layer.oob)
    if ragged:
        pointers.append(Pointer("offsets_flag", "int32", fixed(0)))

    def work(given: dict[str, Var], scalars: dict[str, Var], first: Expr, last: Expr) -> None:
        with emit.loop(first, last) as b:
            start, length = bag_bounds(given, scalars, b, ragged, spec.include_last_offset)
            variants.call(
                scalars["total"],
                emit.offset(given["indices"], start),
                *([emit.offset(given["weights"], start)] if weighted else []),
                given["table"],
                emit.offset(given["out"], b * emit.i64(width)),
                *([given["flag"]] if layer.oob == "raise" else []),
                length,
                scalars["total"] - start,
            )

    driver = GlobalVar(name)
    row_bytes = width * target.vector_bytes // target.lanes(dtype)

    # No size is divided by another: TVM may hoist a division out of the branch that guards it.
    names = ["count", "total"] if ragged else ["count", "total", "length"]
    functions = variants.functions
    functions[driver] = row_driver(
        pointers,
        names,
        lambda s: (s["count"] + s["total"]) * emit.i64(row_bytes),
        by_choice(regimes, "grain_kib"),
        work,
        by="total",
    )

    def scalars(shapes: Any) -> list[Expr]:
        bags = axis(shapes[1][0] if ragged else shapes[0][0])
        if ragged and spec.include_last_offset:
            bags = te.max(bags - emit.i64(1), emit.i64(0))
        return [bags, elements(shapes[0]), *([] if ragged else [axis(shapes[0][1])])]

    checks = index_checks(layer)
    if ragged:
        last = spec.include_last_offset
        checks += ({"layer": layer.name, "kind": "offsets", "include_last_offset": last},)
    return Kernel(
        name,
        driver,
        functions,
        scalars=scalars,
        checks=checks,
        report={
            **report(workload, regimes, layer.name, flops=width, bytes_per_item=row_bytes),
            "index_dtype": index_dtype,
        },
    )


def bag_bounds(
    given: dict[str, Var], scalars: dict[str, Var], b: Expr, ragged: bool, with_last: bool
) -> tuple[Expr, Expr]:
    """Where bag b begins in the indices, and how many it has, both safe to use."""
    total = scalars["total"]
    if not ragged:
        return b * scalars["length"], scalars["length"]
    offsets = emit.view(given["offsets"])
    begin = emit.bound(emit.i64(offsets[b]))
    following = emit.i64(offsets[b + emit.i64(1)])
    if with_last:
        end = emit.bound(following)
    else:
        last = b + emit.i64(1) >= scalars["count"]
        end = emit.bound(te.if_then_else(last, total, following))
    wrong = tirx.any(begin < 0, end < begin, end > total, tirx.all(b < 1, begin > 0))
    if with_last:
        wrong = tirx.any(wrong, tirx.all(b + emit.i64(1) >= scalars["count"], end < total))
    wrong = emit.bound(wrong)
    emit.when(wrong, lambda: emit.store(given["offsets_flag"], 1))
    start = emit.bound(tirx.Select(wrong, emit.i64(0), begin))
    return start, emit.bound(tirx.Select(wrong, emit.i64(0), end - begin))


def _flag(oob: str) -> list[Pointer]:
    return [Pointer("flag", "int32", fixed(0))] if oob == "raise" else []


def index_checks(layer: layers.Embedding | layers.EmbeddingBag) -> tuple[dict[str, Any], ...]:
    if layer.oob != "raise":
        return ()
    return ({"layer": layer.name, "kind": "index", "rows": layer.input_dim},)
