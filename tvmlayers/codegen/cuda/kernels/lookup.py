"""Embedding and EmbeddingBag on a GPU: rows copied or summed by threads side by side."""

from functools import partial
from typing import Any

from tvm import te
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T

from tvmlayers import layers
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu import Kernel, Lowered, Use, elements
from tvmlayers.codegen.cpu.bag import Bag, bag_bounds, bag_checks, bag_of, bag_sizes
from tvmlayers.codegen.cpu.kernel import report
from tvmlayers.codegen.cpu.lookup import index_checks
from tvmlayers.codegen.cuda import launch
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.dtypes import numpy_dtype
from tvmlayers.expr.expression import Expression
from tvmlayers.expr.take import bag, take
from tvmlayers.schedule import Regime
from tvmlayers.schedule.cuda import CudaSelector
from tvmlayers.spaces import cuda_lookup
from tvmlayers.workload import Workload


def lower_embedding(use: Use, name: str, selector: CudaSelector, arena: ArenaPlan) -> Lowered:
    layer = use.layer
    assert isinstance(layer, layers.Embedding)
    table = arena.add_as_is(f"{layer.name}/embeddings", layer.rounded_weights()["embeddings"])
    rows, width, dtype = layer.input_dim, layer.output_dim, layer.dtype
    lanes = selector.target.lanes(dtype)
    workload = Workload.make("embedding", indices=1, rows=rows, width=width, dtype=dtype)
    regimes = selector.regimes(workload)
    expression = take(
        rows,
        width,
        oob=layer.oob,
        index_dtype=use.index_dtype,
        dtype=dtype,
        select=te.if_then_else,
    )
    entry = GlobalVar(name)
    function = _take_function(expression, regimes, use.index_dtype, width, lanes, dtype)
    row_bytes = width * numpy_dtype(layer.dtype).itemsize
    kernel = Kernel(
        name,
        entry,
        {entry: function},
        scalars=lambda shapes: [elements(shapes[0])],
        checks=index_checks(layer),
        report={
            **report(workload, regimes, layer.name, flops=0, bytes_per_item=2 * row_bytes),
            "index_dtype": use.index_dtype,
        },
    )
    return Lowered(kernel, (table,))


def _take_function(
    expression: Expression,
    regimes: list[Regime],
    index_dtype: str,
    width: int,
    lanes: int,
    dtype: str,
) -> PrimFunc:
    """`f(indices, table, out, [flag], count, device)`."""
    flagged = expression.checked is not None and expression.checked.flag

    def body() -> None:
        pointers = [
            emit.argument("indices", f"*{index_dtype}"),
            emit.argument("table", f"*{dtype}"),
            emit.argument("out", f"*{dtype}"),
        ]
        flag = emit.argument("flag", "*int32") if flagged else None
        count = emit.argument("count", "int64")
        emit.argument(launch.DEVICE, "int64")

        def run(regime: Regime) -> Any:
            function = launch.scheduled(
                expression,
                lambda sch: cuda_lookup.take_rows(
                    sch, width=width, lanes=lanes, decisions=regime.decisions
                ),
            )
            return lambda: launch.put(expression, function, pointers, [count, count], flag)

        emit.chain(
            [
                (None if r is regimes[-1] else count <= emit.i64(r.most or 0), run(r))
                for r in regimes
            ]
        )

    return emit.private(body)


def lower_bag(use: Use, name: str, selector: CudaSelector, arena: ArenaPlan) -> Lowered:
    """Of an EmbeddingBag, or of an Embedding that is only averaged."""
    spec, table = bag_of(use, arena)
    return Lowered(_bag_kernel(name, spec, use.roles, use.index_dtype, selector), (table,))


def _bag_kernel(
    name: str, spec: Bag, roles: tuple[str, ...], index_dtype: str, selector: CudaSelector
) -> Kernel:
    """`f(indices, [offsets], [weights], table, out, flags, bags, total, [length], device)`."""
    layer = spec.layer
    rows, width, dtype = layer.input_dim, layer.output_dim, layer.dtype
    ragged, weighted = "offsets" in roles, "per_sample_weights" in roles
    lanes = cuda_lookup.vector_width(width, selector.target.lanes(dtype))
    workload = Workload.make("bag", indices=1, rows=rows, width=width, dtype=dtype, mode=spec.mode)
    regime = selector.decide_once(workload)
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
        in_flight=int(regime.decisions["rows_in_flight"]),
    )
    threads = int(regime.decisions["threads"])
    along = cuda_lookup.row_threads(width, lanes, threads)
    scheduled = launch.scheduled(
        expression, lambda sch: cuda_lookup.bag_columns(sch, threads=along)
    )
    bags = threads // along

    def body() -> None:
        given = {"indices": emit.argument("indices", f"*{index_dtype}")}
        if ragged:
            given["offsets"] = emit.argument("offsets", f"*{index_dtype}")
        if weighted:
            given["weights"] = emit.argument("weights", f"*{dtype}")
        given["table"] = emit.argument("table", f"*{dtype}")
        given["out"] = emit.argument("out", f"*{dtype}")
        if layer.oob == "raise":
            given["flag"] = emit.argument("flag", "*int32")
        if ragged:
            given["offsets_flag"] = emit.argument("offsets_flag", "*int32")
        names = ["count", "total"] if ragged else ["count", "total", "length"]
        scalars = {each: emit.argument(each, "int64") for each in names}
        emit.argument(launch.DEVICE, "int64")
        blocks = emit.ceil_div(scalars["count"], bags)
        with (
            T.thread_binding(emit.i64(0), blocks, thread="blockIdx.x") as block,
            T.thread_binding(emit.i64(0), emit.i64(bags), thread="threadIdx.y") as ty,
        ):
            b = block * emit.i64(bags) + ty
            emit.when(b < scalars["count"], lambda: one_bag(given, scalars, b))

    def one_bag(given: dict[str, Any], scalars: dict[str, Any], b: Expr) -> None:
        bounds = bag_bounds(given, scalars, b, ragged, spec.include_last_offset)
        # TVM's analysis replaces a name by its value at every use, which takes seconds.
        start, length = map(emit.kept, bounds) if ragged else bounds
        moved = [emit.offset(given["indices"], start)]
        if weighted:
            moved.append(emit.offset(given["weights"], start))
        moved += [given["table"], emit.offset(given["out"], b * emit.i64(width))]
        flag = given.get("flag")
        launch.put(expression, scheduled, moved, [length, length], flag, guarded=False)

    entry = GlobalVar(name)
    row_bytes = width * numpy_dtype(layer.dtype).itemsize
    return Kernel(
        name,
        entry,
        {entry: emit.private(body)},
        scalars=partial(bag_sizes, ragged, spec.include_last_offset),
        checks=bag_checks(layer, ragged, spec.include_last_offset),
        report={
            **report(workload, [regime], layer.name, flops=width, bytes_per_item=row_bytes),
            "index_dtype": index_dtype,
        },
    )
