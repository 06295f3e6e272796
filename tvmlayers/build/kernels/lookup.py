"""Embedding and EmbeddingBag as kernels: rows shared out among threads, bags walked one by one."""

from dataclasses import dataclass
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var

from tvmlayers import layers, schedule
from tvmlayers.build import emit
from tvmlayers.build.fuse import PooledLookup
from tvmlayers.build.kernels.kernel import Functions, Kernel, Lowered, Use, axis, core, elements
from tvmlayers.build.kernels.rows import Pointer, fixed, row_driver
from tvmlayers.build.weights import ArenaPlan
from tvmlayers.expr.take import bag, take
from tvmlayers.spaces.lookup import bag_rows, take_rows
from tvmlayers.targets import Target


def lower_embedding(use: Use, name: str, target: Target, arena: ArenaPlan) -> Lowered:
    layer = use.layer
    assert isinstance(layer, layers.Embedding)
    table = arena.add(f"{layer.name}/embeddings", layer.weights["embeddings"])
    kernel = _take_kernel(name, layer, use.index_dtype, target)
    return Lowered(kernel, (table,))


def lower_embedding_bag(use: Use, name: str, target: Target, arena: ArenaPlan) -> Lowered:
    layer = use.layer
    assert isinstance(layer, layers.EmbeddingBag)
    table = arena.add(f"{layer.name}/embeddings", layer.weights["embeddings"])
    spec = _Bag(layer, layer.mode, layer.padding_idx, layer.include_last_offset)
    return Lowered(_bag_kernel(name, spec, use.roles, use.index_dtype, target), (table,))


def lower_pooled_lookup(use: Use, name: str, target: Target, arena: ArenaPlan) -> Lowered:
    assert isinstance(use.layer, PooledLookup)
    layer = use.layer.embedding
    table = arena.add(f"{layer.name}/embeddings", layer.weights["embeddings"])
    spec = _Bag(layer, "mean", 0 if use.layer.masked else None, empty_is_zero=False)
    return Lowered(_bag_kernel(name, spec, use.roles, use.index_dtype, target), (table,))


@dataclass(frozen=True)
class _Bag:
    """What the bag kernel computes with the table of `layer`."""

    layer: layers.Embedding | layers.EmbeddingBag
    mode: str
    padding_idx: int | None
    include_last_offset: bool = False
    empty_is_zero: bool = True


def _take_kernel(name: str, layer: layers.Embedding, index_dtype: str, target: Target) -> Kernel:
    """`f(indices, table, out, [flag], count, threads)`."""
    rows, width, dtype = layer.input_dim, layer.output_dim, layer.dtype
    lanes = target.lanes(dtype)
    expression = take(rows, width, oob=layer.oob, index_dtype=index_dtype, dtype=dtype)
    made, function = core(
        f"{name}_rows",
        expression,
        lambda sch: take_rows(
            sch, lanes=lanes, width=width, decisions=schedule.lookup_decisions(width // lanes)
        ),
        prefetch=schedule.PREFETCH_ROWS,
    )
    functions: Functions = {made: function}
    pointers = [
        Pointer("indices", index_dtype, fixed(1)),
        Pointer("table", dtype, fixed(0)),
        Pointer("out", dtype, fixed(width)),
        *_flag(layer.oob),
    ]

    def work(given: dict[str, Var], scalars: dict[str, Var], first: Expr, last: Expr) -> None:
        emit.call(
            made,
            emit.offset(given["indices"], first),
            given["table"],
            emit.offset(given["out"], first * emit.i64(width)),
            *([given["flag"]] if layer.oob == "raise" else []),
            last - first,
            scalars["count"] - first,
        )

    driver = GlobalVar(name)
    row_bytes = width * target.vector_bytes // lanes
    functions[driver] = row_driver(
        pointers,
        ["count"],
        lambda s: s["count"] * emit.i64(2 * row_bytes),
        schedule.ROW_GRAIN,
        work,
    )
    return Kernel(
        name,
        driver,
        functions,
        scalars=lambda shapes: [elements(shapes[0])],
        checks=_index_checks(layer),
        report=_report("embedding", layer, row_bytes, index_dtype, width // lanes),
    )


def _bag_kernel(
    name: str, spec: _Bag, roles: tuple[str, ...], index_dtype: str, target: Target
) -> Kernel:
    """`f(indices, [offsets], [weights], table, out, flags, bags, total, [length], threads)`.

    Without offsets every bag has `length` indices. Offsets that do not start at 0, decrease or
    run past the end set the flag, and such a bag counts as empty.
    """
    layer = spec.layer
    rows, width, dtype = layer.input_dim, layer.output_dim, layer.dtype
    ragged, weighted = "offsets" in roles, "per_sample_weights" in roles
    lanes = schedule.bag_lanes(width, target.lanes(dtype))
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
    made, function = core(
        f"{name}_bag",
        expression,
        lambda sch: bag_rows(sch, vectors=vectors, decisions=schedule.lookup_decisions(vectors)),
        prefetch=schedule.PREFETCH_ROWS,
    )
    functions: Functions = {made: function}
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
            start, length = _bag_bounds(given, scalars, b, ragged, spec.include_last_offset)
            emit.call(
                made,
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
    functions[driver] = row_driver(
        pointers,
        names,
        lambda s: (s["count"] + s["total"]) * emit.i64(row_bytes),
        schedule.ROW_GRAIN,
        work,
    )

    def scalars(shapes: Any) -> list[Expr]:
        bags = axis(shapes[1][0] if ragged else shapes[0][0])
        if ragged and spec.include_last_offset:
            bags = te.max(bags - emit.i64(1), emit.i64(0))
        return [bags, elements(shapes[0]), *([] if ragged else [axis(shapes[0][1])])]

    checks = _index_checks(layer)
    if ragged:
        last = spec.include_last_offset
        checks += ({"layer": layer.name, "kind": "offsets", "include_last_offset": last},)
    return Kernel(
        name,
        driver,
        functions,
        scalars=scalars,
        checks=checks,
        report=_report("embedding_bag", layer, row_bytes, index_dtype, vectors),
    )


def _bag_bounds(
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


def _index_checks(layer: layers.Embedding | layers.EmbeddingBag) -> tuple[dict[str, Any], ...]:
    if layer.oob != "raise":
        return ()
    return ({"layer": layer.name, "kind": "index", "rows": layer.input_dim},)


def _report(
    kind: str,
    layer: layers.Embedding | layers.EmbeddingBag,
    row_bytes: int,
    index_dtype: str,
    vectors: int,
) -> dict[str, Any]:
    return {
        "kind": kind,
        "layer": layer.name,
        "rows": layer.input_dim,
        "width": layer.output_dim,
        "dtype": layer.dtype,
        "index_dtype": index_dtype,
        "schedule": schedule.SOURCE,
        "bytes_per_index": row_bytes,
        "decisions": {
            **schedule.lookup_decisions(vectors),
            "prefetch_rows": schedule.PREFETCH_ROWS,
        },
    }
