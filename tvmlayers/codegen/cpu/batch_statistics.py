"""Means over a whole batch for each column, and averages that follow them from step to step."""

from __future__ import annotations

from collections.abc import Callable

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.columns import local, number, over_columns, parameters, put
from tvmlayers.codegen.cpu.units import Units

_CHUNK = 64  # columns of a unit
_BLOCK = 128  # rows that are summed by themselves: fewer roundings of large sums


def column_means(name: str, width: int, lanes: int, dtype: str) -> Units:
    """`f(x, out, count, unit, units)`: out (width,), the mean of x (count, width) over the rows."""
    whole, left = divmod(width, _CHUNK)

    def body() -> None:
        x, out, count, unit, _ = parameters(
            x=f"*{dtype}", out=f"*{dtype}", count="int64", unit="int64", units="int64"
        )
        totals, parts = local(_CHUNK, dtype), local(_CHUNK, dtype)
        zero = number(0.0, dtype)
        first = emit.bound(unit * emit.i64(_CHUNK))

        def columns(some: int) -> None:
            over_columns(some, lanes, lambda j, _: put(totals, j, zero))
            with T.serial(emit.i64(0), emit.ceil_div(count, _BLOCK)) as block:
                over_columns(some, lanes, lambda j, _: put(parts, j, zero))
                begin = emit.bound(block * emit.i64(_BLOCK))
                rows = emit.bound(te.min(count - begin, emit.i64(_BLOCK)))
                with T.serial(emit.i64(0), rows) as i:
                    at = emit.bound((begin + i) * emit.i64(width) + first)
                    over_columns(some, lanes, lambda j, _: put(parts, j, parts[j] + x[at + j]))
                over_columns(some, lanes, lambda j, _: put(totals, j, totals[j] + parts[j]))
            over = emit.bound(number(1.0, dtype) / tirx.Cast(dtype, count))
            over_columns(some, lanes, lambda j, _: put(out, first + j, totals[j] * over))

        parts_of_row: list[tuple[Expr | None, Callable[[], None]]] = []
        if whole:
            is_whole = unit < emit.i64(whole) if left else None
            parts_of_row.append((is_whole, lambda: columns(_CHUNK)))
        if left:
            parts_of_row.append((None, lambda: columns(left)))
        emit.chain(parts_of_row)

    entry = GlobalVar(name)
    functions = {entry: emit.noinline(emit.private(body))}
    return Units(entry, functions, lambda _: emit.i64(whole + bool(left)))


def moving_averages(
    name: str, width: int, momentum: float, share: float, uses: int, lanes: int, dtype: str
) -> Units:
    """`f(means..., average, unit, units)`: average * momentum + share * mean * (1 - momentum), for
    each of the means, one after another. One unit."""

    def body() -> None:
        names = [*(f"mean{i}" for i in range(uses)), "average"]
        kinds = dict.fromkeys(names, f"*{dtype}")
        *means, average, _, _ = parameters(**kinds, unit="int64", units="int64")
        kept, new = number(momentum, dtype), number(share * (1.0 - momentum), dtype)
        for mean in means:

            def column(j: Expr, _: Expr, mean: tirx.Buffer = mean) -> None:
                put(average, j, average[j] * kept + mean[j] * new)

            over_columns(width, lanes, column)

    entry = GlobalVar(name)
    return Units(entry, {entry: emit.noinline(emit.private(body))}, lambda _: emit.i64(1))
