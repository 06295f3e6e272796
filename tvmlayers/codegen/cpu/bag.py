"""EmbeddingBag as a kernel: bags shared out among threads and walked one by one."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var

from tvmlayers import layers
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.kernel import (
    Kernel,
    Lowered,
    Use,
    axis,
    elements,
    in_halves,
    report,
)
from tvmlayers.codegen.cpu.lookup import (
    Made,
    add_table,
    flag_pointer,
    index_checks,
    table_arguments,
    table_pointer,
    table_report,
    variants_of,
)
from tvmlayers.codegen.cpu.rows import Pointer, fixed, row_driver
from tvmlayers.codegen.fuse import PooledLookup
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.dtypes import wide
from tvmlayers.expr.stored import read_as
from tvmlayers.expr.take import bag
from tvmlayers.quantization.rows import row_bytes as bytes_of_row
from tvmlayers.schedule import Selector, by_choice
from tvmlayers.spaces.choices import Decisions
from tvmlayers.spaces.lookup import bag_columns, bag_rows, row_lanes, run_lengths
from tvmlayers.workload import Workload


@dataclass(frozen=True)
class Bag:
    """What the bag kernel computes with the table of `layer`."""

    layer: layers.Embedding | layers.EmbeddingBag
    mode: str
    padding_idx: int | None
    include_last_offset: bool = False
    empty_is_zero: bool = True


def bag_of(use: Use, arena: ArenaPlan) -> tuple[Bag, str]:
    """What a bag kernel computes for a use, and its table's name in the arena."""
    if isinstance(use.layer, PooledLookup):
        padding = 0 if use.layer.masked else None
        spec = Bag(use.layer.embedding, "mean", padding, empty_is_zero=False)
    else:
        layer = use.layer
        assert isinstance(layer, layers.EmbeddingBag)
        spec = Bag(layer, layer.mode, layer.padding_idx, layer.include_last_offset)
    return spec, add_table(spec.layer, arena)


def lower_bag(use: Use, name: str, selector: Selector, arena: ArenaPlan) -> Lowered:
    """Of an EmbeddingBag, or of an Embedding that is only averaged."""
    spec, table = bag_of(use, arena)
    return Lowered(_bag_kernel(name, spec, use.roles, use.index_dtype, selector), (table,))


def _bag_kernel(
    name: str, spec: Bag, roles: tuple[str, ...], index_dtype: str, selector: Selector
) -> Kernel:
    """`f(indices, [offsets], [weights], table, out, flags, bags, total, [length], threads)`.

    Without offsets every bag has `length` indices. Offsets that do not start at 0, decrease or
    run past the end set the flag, and such a bag counts as empty.
    """
    layer = spec.layer
    rows, width, dtype = layer.input_dim, layer.output_dim, wide(layer.dtype)
    ragged, weighted = "offsets" in roles, "per_sample_weights" in roles
    target = selector.target
    is_arm = target.family == "arm"
    masked = spec.padding_idx is not None or layer.oob == "zero"
    columns = bag_columns(width, dtype, target, layer.stored, masked=masked)
    sizes = {"indices": 1, "rows": rows, "width": width}
    traits = {"dtype": layer.dtype, "mode": spec.mode, "stored": layer.stored}
    workload = Workload.make("bag", **sizes, **traits)

    def make(decisions: Decisions) -> Made:
        lanes = row_lanes(width, dtype, int(decisions["vector_bytes"]), layer.stored)
        vectors = -(-columns // lanes)
        expression = bag(
            rows,
            width,
            lanes=lanes,
            columns=columns,
            native_extremes=is_arm,
            mode=spec.mode,
            oob=layer.oob,
            padding_idx=spec.padding_idx,
            empty_is_zero=spec.empty_is_zero,
            weighted=weighted,
            index_dtype=index_dtype,
            dtype=dtype,
            stored=layer.stored,
        )
        # One decision does not know of masks and of the other: what does not divide the vectors
        # becomes all of them, where the registers hold them.
        run = int(decisions["unrolled_vectors"])
        run = run if vectors % run == 0 else max(run_lengths(vectors))
        decided = {**decisions, "unrolled_vectors": run}
        schedule = partial(
            bag_rows,
            vectors=vectors,
            is_sum=spec.mode in ("sum", "mean"),
            unroll_result=is_arm,
            decisions=decided,
        )
        return expression, schedule, in_halves(expression, layer.dtype)

    regimes = selector.regimes(workload)
    variants = variants_of(f"{name}_bag", regimes, make)
    pointers = [Pointer("indices", index_dtype, fixed(0))]
    if ragged:
        pointers.append(Pointer("offsets", index_dtype, fixed(0)))
    if weighted:
        pointers.append(Pointer("weights", read_as(layer.dtype), fixed(0)))
    pointers += [table_pointer(layer), Pointer("out", read_as(layer.dtype), fixed(width))]
    pointers += flag_pointer(layer.oob)
    if ragged:
        pointers.append(Pointer("offsets_flag", "int32", fixed(0)))

    def work(given: dict[str, Var], scalars: dict[str, Var], first: Expr, last: Expr) -> None:
        with emit.loop(first, last) as b:
            start, length = bag_bounds(given, scalars, b, ragged, spec.include_last_offset)

            def reduce(column: Expr | int) -> None:
                arguments = [
                    emit.offset(given["indices"], start),
                    *([emit.offset(given["weights"], start)] if weighted else []),
                    *table_arguments(layer, given["table"], column),
                    emit.offset(given["out"], b * emit.i64(width) + column),
                    *([given["flag"]] if layer.oob == "raise" else []),
                    length,
                    scalars["total"] - start,
                ]
                variants.call(scalars["total"], lambda made: emit.call(made.name, *arguments))

            # The last piece holds columns of its neighbour again where it would not be full.
            if columns == width:
                reduce(0)
                return
            with emit.loop(emit.i64(0), emit.i64(-(-width // columns))) as piece:
                reduce(te.min(piece * columns, width - columns))

    driver = GlobalVar(name)
    row_bytes = bytes_of_row(width, layer.stored)

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

    return Kernel(
        name,
        driver,
        functions,
        scalars=partial(bag_sizes, ragged, spec.include_last_offset),
        checks=bag_checks(layer, ragged, spec.include_last_offset),
        report={
            **report(workload, regimes, layer.name, flops=width, bytes_per_item=row_bytes),
            **table_report(layer),
            "index_dtype": index_dtype,
        },
    )


def bag_sizes(ragged: bool, with_last: bool, shapes: Any) -> list[Expr]:
    """The bags, all indices and, where there are no offsets, the indices of each bag."""
    bags = axis(shapes[1][0] if ragged else shapes[0][0])
    if ragged and with_last:
        bags = te.max(bags - emit.i64(1), emit.i64(0))
    return [bags, elements(shapes[0]), *([] if ragged else [axis(shapes[0][1])])]


def bag_checks(layer: Any, ragged: bool, with_last: bool) -> tuple[dict[str, Any], ...]:
    """What the flags of a bag mean: of its indices, and of its offsets."""
    offsets = {"layer": layer.name, "kind": "offsets", "include_last_offset": with_last}
    return (*index_checks(layer), *([offsets] if ragged else []))


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
