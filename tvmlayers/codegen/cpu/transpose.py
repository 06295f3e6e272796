"""Square blocks transposed in registers: the second copy of a weight follows the first.

LLVM's own text says it: a tensor program cannot name a shuffle of two vectors.
"""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen.private import with_text

_ELEMENTS = {"float32": "float", "float64": "double"}


def transpose_block(source: Expr, source_step: Expr, out: Expr, out_step: Expr, name: str) -> None:
    """Write a block of rows at `source`, so many elements apart, to `out` as its columns.

    name: of `transposing`, in a function that `with_transpose` has its text in.
    """
    T.evaluate(tirx.call_extern("void", name, source, source_step, out, out_step))


def transposing(dtype: str, lanes: int) -> str:
    """The name of the function for blocks of that many rows and columns."""
    return f"tvmlayers_transpose_{dtype}x{lanes}"


def with_transpose(function: PrimFunc, dtype: str, lanes: int) -> PrimFunc:
    """The function with LLVM's text of what `transpose_block` calls."""
    return function.with_body(with_text(function.body, _text(dtype, lanes)))


def _text(dtype: str, lanes: int) -> str:
    """In log2(lanes) rounds rows h apart exchange blocks of h columns, h = lanes / 2 ... 1."""
    kind = _ELEMENTS[dtype]
    vector, align = f"<{lanes} x {kind}>", 4 if dtype == "float32" else 8
    parameters = "ptr %s, i64 %ss, ptr %d, i64 %ds"
    lines = [f"define void @{transposing(dtype, lanes)}({parameters}) alwaysinline {{"]
    rows = []
    for i in range(lanes):
        lines += [
            f"  %so{i} = mul i64 %ss, {i}",
            f"  %sp{i} = getelementptr {kind}, ptr %s, i64 %so{i}",
            f"  %v0_{i} = load {vector}, ptr %sp{i}, align {align}",
        ]
        rows.append(f"%v0_{i}")
    step, count = lanes // 2, 0
    while step:
        count += 1
        low = [c if not c & step else lanes + c - step for c in range(lanes)]
        high = [c + step if not c & step else lanes + c for c in range(lanes)]
        made = list(rows)
        for i in range(lanes):
            if i & step:
                continue
            pair = f"{vector} {rows[i]}, {vector} {rows[i + step]}"
            for place, mask in ((i, low), (i + step, high)):
                picked = ", ".join(f"i32 {c}" for c in mask)
                made[place] = f"%v{count}_{place}"
                lines.append(f"  {made[place]} = shufflevector {pair}, <{lanes} x i32> <{picked}>")
        rows, step = made, step // 2
    for i in range(lanes):
        lines += [
            f"  %do{i} = mul i64 %ds, {i}",
            f"  %dp{i} = getelementptr {kind}, ptr %d, i64 %do{i}",
            f"  store {vector} {rows[i]}, ptr %dp{i}, align {align}",
        ]
    return "\n".join([*lines, "  ret void", "}", ""])
