"""A workload as a plain tensor expression of fixed shape, which MetaSchedule's own rules schedule.

x: (m, k), w: (k, n), b: (n,) -> (m, n); indices: (count,), table: (rows, width) -> (count, width);
indices: (bags, length), table -> (bags, width); x: (m, n) -> (m, n).

Halves are computed with in float32 and rounded once at the end, as our own kernels do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx, topi
from tvm.ir import Expr
from tvm.tirx import PrimFunc

from tvmlayers.dtypes import wide
from tvmlayers.errors import TuneError
from tvmlayers.expr.activations import ACTIVATIONS, ROW_ACTIVATIONS
from tvmlayers.tune.cases import Case
from tvmlayers.tune.expected import Array
from tvmlayers.workload import Workload


def plain_function(case: Case) -> PrimFunc:
    """The function of the case, weights after inputs and the result last."""
    tensors = _EXPRESSIONS[case.workload.kind](case)
    return te.create_prim_func(tensors).with_attr("global_symbol", "main")


def plain_inputs(workload: Workload, drawn: Sequence[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
    """What was drawn for our own kernel, as the plain function of the workload takes it."""
    if workload.kind == "bag":
        bags = len(drawn[0][1])
        return [(indices.reshape(bags, -1),) for indices, _ in drawn]
    if workload.kind == "embedding":
        return [(indices.reshape(-1),) for (indices,) in drawn]
    return list(drawn)


def bag_shape(case: Case) -> tuple[int, int]:
    """(bags, length); TuneError for bags of different lengths."""
    least, most = case.data.lengths
    if least != most or case.workload.batch % most:
        raise TuneError(
            f"MetaSchedule's own rules take bags of one length, got {least}..{most} for "
            f"{case.workload}; leave --space stock out, or give a length that divides the indices"
        )
    return case.workload.batch // most, most


def _dense(case: Case) -> list[Any]:
    workload = case.workload
    m, k, n, dtype = (workload[name] for name in ("m", "k", "n", "dtype"))
    x = te.placeholder((m, k), dtype, name="x")
    w = te.placeholder((k, n), dtype, name="w")
    b = te.placeholder((n,), dtype, name="b")
    axis, summed = te.reduce_axis((0, k), "axis"), wide(dtype)

    def multiplied(i: Expr, j: Expr) -> Any:
        return te.sum(x[i, axis].astype(summed) * w[axis, j].astype(summed), axis=axis)

    product = te.compute((m, n), multiplied, "product")
    name = workload["activation"]
    if name in ROW_ACTIVATIONS:
        raise TuneError(
            f"MetaSchedule's own rules do not schedule a product and its {name} in one function; "
            f"give them a dense case without it, and a softmax case"
        )
    activation = ACTIVATIONS[name]

    def finished(i: Expr, j: Expr) -> Any:
        return activation(product[i, j] + b[j].astype(summed)).astype(dtype)

    return [x, w, b, te.compute((m, n), finished, "out")]


def _embedding(case: Case) -> list[Any]:
    indices, table = _lookup(case.workload, (case.workload.batch,))
    shape = case.workload.batch, case.workload["width"]
    return [indices, table, te.compute(shape, lambda i, j: table[indices[i], j], "out")]


def _bag(case: Case) -> list[Any]:
    bags, length = bag_shape(case)
    indices, table = _lookup(case.workload, (bags, length))
    axis = te.reduce_axis((0, length), "axis")
    mode, dtype = case.workload["mode"], case.workload["dtype"]
    reduce = {"max": te.max, "min": te.min}.get(mode, te.sum)

    def reduced(i: Expr, j: Expr) -> Any:
        return reduce(table[indices[i, axis], j].astype(wide(dtype)), axis=axis)

    out = te.compute((bags, case.workload["width"]), reduced, "reduced")
    if mode == "mean":
        share = tirx.const(1.0 / length, wide(dtype))
        total = out
        out = te.compute(out.shape, lambda i, j: total[i, j] * share, "out")
    return [indices, table, _stored(out, dtype)]


def _softmax(case: Case) -> list[Any]:
    workload = case.workload
    dtype = workload["dtype"]
    x = te.placeholder((workload["m"], workload["n"]), dtype, name="x")
    given = x if dtype == wide(dtype) else topi.cast(x, wide(dtype))
    return [x, _stored(topi.nn.softmax(given), dtype)]


def _stored(result: Any, dtype: str) -> Any:
    return result if dtype == wide(dtype) else topi.cast(result, dtype)


def _lookup(workload: Workload, shape: tuple[int, ...]) -> tuple[Any, Any]:
    indices = te.placeholder(shape, "int32", name="indices")
    sizes = workload["rows"], workload["width"]
    return indices, te.placeholder(sizes, workload["dtype"], name="table")


_EXPRESSIONS = {"dense": _dense, "embedding": _embedding, "bag": _bag, "softmax": _softmax}
