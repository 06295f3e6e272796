"""Concatenate: each input copied to its columns."""

from math import prod
from typing import Any

from tvm.ir import Expr

from tvmlayers import layers
from tvmlayers.codegen.cpu.kernel import Functions, Lowered, Use, core, elements
from tvmlayers.codegen.cpu.rows import Pointer, call_core, fixed, row_kernel
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.expr.elementwise import copy_columns
from tvmlayers.expr.stored import read_as
from tvmlayers.schedule import Selector
from tvmlayers.spaces import rows as row_spaces


def lower_concatenate(use: Use, name: str, selector: Selector, _arena: ArenaPlan) -> Lowered:
    layer, dtype = use.layer, read_as(use.dtype(0))
    assert isinstance(layer, layers.Concatenate)
    rank = use.inputs[0].rank
    first = layer.axis % rank
    widths = [prod(use.fixed(n, i) for n in range(first, rank)) for i in range(len(use.inputs))]
    functions: Functions = {}
    cores, begin = [], 0
    for i, width in enumerate(widths):
        made, function = core(
            f"{name}_part{i}", copy_columns(width, sum(widths), begin, dtype), row_spaces.plain
        )
        functions[made] = function
        cores.append(made)
        begin += width
    parts = [Pointer(f"x{i}", dtype, fixed(width)) for i, width in enumerate(widths)]
    out = Pointer("out", dtype, fixed(sum(widths)))

    def work(given: Any, scalars: Any, first: Expr, last: Expr) -> None:
        for made, part in zip(cores, parts, strict=True):
            call_core(made, [part, out])(given, scalars, first, last)

    kernel = row_kernel(
        name,
        functions,
        [*parts, out],
        ["count"],
        8 * sum(widths),
        work,
        lambda shapes: [elements(shapes[0][:first])],
        {"kind": "concatenate", "layer": layer.name, "dtype": use.dtype(0)},
    )
    return Lowered(kernel, ())
