"""Normalisations of rows, fused with the merge of several tensors that makes the rows."""

from collections.abc import Callable
from functools import partial

from tvm.ir import Expr

from tvmlayers.codegen.cpu.elementwise import packed_operands
from tvmlayers.codegen.cpu.kernel import Functions, Lowered, Use, core, elements, in_halves
from tvmlayers.codegen.cpu.rows import (
    Pointer,
    call_core,
    call_streamed,
    fixed,
    row_kernel,
    streamed_rows,
)
from tvmlayers.codegen.fuse import NormalizedMerge
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.dtypes import numpy_dtype, wide
from tvmlayers.expr.normalization import normalized
from tvmlayers.expr.stored import read_as
from tvmlayers.layers.normalization import RowNormalization
from tvmlayers.operations import operation_of
from tvmlayers.schedule import Selector
from tvmlayers.spaces import rows as row_spaces

_VECTORS, _LONG_STEPS = 4, 16  # in flight, in rows of at least so many


def lower_normalization(use: Use, name: str, selector: Selector, arena: ArenaPlan) -> Lowered:
    """The kernel of a normalisation, and of the merge before it where there is one."""
    dtype, (layer, made_of) = use.dtype(0), parts_of(use)
    n, first = layer.width, use.inputs[0].rank - len(layer.axes)
    packed, computed = packed_operands(layer, dtype, arena), wide(dtype)
    expression, rows = normalized(
        operation_of(layer).part("formula"),
        layer,
        made_of,
        len(use.inputs),
        len(packed),
        n,
        lanes=_lanes(n, selector.target.lanes(computed)),
        dtype=computed,
    )
    schedule = partial(
        row_spaces.normalized_rows,
        stages=rows.stages,
        sums=rows.sums,
        made_bytes=0 if made_of is None else (n + rows.lanes) * numpy_dtype(computed).itemsize,
    )
    itemsize = numpy_dtype(dtype).itemsize
    kept = in_halves(expression, dtype, but=["made"])
    functions: Functions = {}
    made, functions[made] = core(f"{name}_rows", expression, schedule, kept=kept)
    make = partial(core, f"{name}_streamed", expression, schedule)
    streamed = streamed_rows(use, make, n * itemsize, rows.lanes * itemsize, selector.target)
    functions.update(streamed.functions if streamed else {})
    pointers = [
        *(Pointer(f"x{i}", read_as(dtype), fixed(n)) for i in range(len(use.inputs))),
        *(Pointer(f"w{i}", read_as(each.dtype), fixed(0)) for i, each in enumerate(packed)),
        Pointer("out", read_as(dtype), fixed(n)),
    ]
    kernel = row_kernel(
        name,
        functions,
        pointers,
        ["count"],
        (len(use.inputs) + 1) * n * itemsize,
        call_streamed(call_core(made, pointers), streamed, pointers, n * itemsize),
        lambda given: [elements(given[0][:first])],
        {"kind": "normalization", "layer": layer.name, "dtype": dtype, "n": n},
    )
    return Lowered(kernel, tuple(each.name for each in packed))


def parts_of(use: Use) -> tuple[RowNormalization, Callable[..., Expr] | None]:
    """The normalisation, and what its rows are made of: the merge before it, or None."""
    layer, made_of = use.layer, None
    if isinstance(layer, NormalizedMerge):
        made_of = partial(operation_of(layer.merge).part("formula"), layer.merge)
        layer = layer.normalization
    assert isinstance(layer, RowNormalization)
    return layer, made_of


def _lanes(n: int, lanes: int) -> int:
    """Of the vectors that a row of n is gone over in: several at a time where it is long, and of a
    power of two that it holds where it is short."""
    if n < lanes:
        return 1 << (n.bit_length() - 1)
    return lanes * (_VECTORS if n >= _LONG_STEPS * lanes else 1)
