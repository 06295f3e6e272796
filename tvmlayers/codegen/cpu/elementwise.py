"""Operations element by element: merges of several tensors, and functions of one with operands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

from tvm.ir import Expr

from tvmlayers.codegen.cpu.kernel import (
    Functions,
    Lowered,
    Shapes,
    Use,
    core,
    elements,
    in_halves,
)
from tvmlayers.codegen.cpu.rows import Pointer, call_core, fixed, row_kernel
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.dtypes import numpy_dtype, wide
from tvmlayers.errors import ShapeError
from tvmlayers.expr.elementwise import Operand, broadcast
from tvmlayers.expr.stored import read_as
from tvmlayers.layers import Layer
from tvmlayers.layers.graph import Dim
from tvmlayers.layers.merge import aligned
from tvmlayers.operations import operation_of
from tvmlayers.schedule import Selector
from tvmlayers.spaces import rows as row_spaces


def lower_elementwise(use: Use, name: str, _selector: Selector, arena: ArenaPlan) -> Lowered:
    """The kernel of a layer whose row of the table has a formula for one element."""
    dtype, work = use.dtype(0), planned(use, arena)
    functions: Functions = {}
    computed = [replace(each, dtype=wide(dtype)) for each in work.operands]
    expression = broadcast(work.function, computed, work.lengths, wide(dtype))
    wider = [f"x{i}" for i, each in enumerate(work.operands) if each.dtype != dtype]
    kept = in_halves(expression, dtype, but=wider)
    made, function = core(f"{name}_rows", expression, row_spaces.plain, kept=kept)
    functions[made] = function
    pointers = [
        Pointer(f"x{i}", read_as(each.dtype), fixed(prod(each.lengths) if each.has_rows else 0))
        for i, each in enumerate(work.operands)
    ]
    pointers.append(Pointer("out", read_as(dtype), fixed(prod(work.lengths))))
    moved = prod(work.lengths) + sum(prod(e.lengths) for e in work.operands if e.has_rows)
    kernel = row_kernel(
        name,
        functions,
        pointers,
        ["count"],
        moved * numpy_dtype(dtype).itemsize,
        call_core(made, pointers),
        work.rows,
        {"kind": "elementwise", "layer": use.layer.name, "dtype": dtype},
    )
    return Lowered(kernel, work.weights)


@dataclass(frozen=True)
class Elementwise:
    """What a kernel element by element computes, whatever the hardware.

    function: of one element of each operand; lengths: of the result's axes inside of a row; rows:
    their number from the shapes of the inputs; weights: the names in the arena of the operands that
    are no inputs, which come last.
    """

    function: Callable[..., Expr]
    operands: list[Operand]
    lengths: tuple[int, ...]
    rows: Callable[[Shapes], list[Expr]]
    weights: tuple[str, ...]


def planned(use: Use, arena: ArenaPlan) -> Elementwise:
    """What one use of a layer computes; its weights go into the arena."""
    layer, dtype = use.layer, use.dtype(0)
    assert isinstance(layer, Layer)
    wanted = use.output.axes
    inputs = [aligned(tensor.axes, len(wanted)) for tensor in use.inputs]
    packed = packed_operands(layer, dtype, arena)
    shared = [(*(1,) * (len(wanted) - len(each.shape)), *each.shape) for each in packed]
    lead = _leading(wanted, inputs, shared)
    operands = [Operand(_fixed(use, axes, lead), True, dtype) for axes in inputs]
    pairs = zip(shared, packed, strict=True)
    operands += [Operand(shape[lead:], False, each.dtype) for shape, each in pairs]
    whole = next(i for i, tensor in enumerate(use.inputs) if tensor.rank == len(wanted))
    return Elementwise(
        partial(operation_of(layer).part("formula"), layer),
        operands,
        _fixed(use, wanted, lead),
        lambda given: [elements(given[whole][:lead])],
        tuple(each.name for each in packed),
    )


@dataclass(frozen=True)
class PackedOperand:
    """What a kernel reads beside its inputs, by its name in the arena."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def packed_operands(layer: Layer, dtype: str, arena: ArenaPlan) -> list[PackedOperand]:
    """What the kernel of a layer reads beside its inputs, which are of this dtype.

    All weights go into the arena, also those that were made into something else: `verify` reads
    them there. Operands that are computed from weights stay float32: halves would round them again.
    """
    operands = layer.operands()
    dtypes = {key: dtype if key in layer.weights else wide(dtype) for key in operands}
    for key, array in {**layer.weights, **operands}.items():
        held = array.astype(numpy_dtype(dtypes.get(key, dtype)))
        arena.add_as_is(f"{layer.name}/{key}", held)
    return [
        PackedOperand(f"{layer.name}/{key}", array.shape, dtypes[key])
        for key, array in operands.items()
    ]


def _leading(
    wanted: Sequence[Dim], inputs: Sequence[Sequence[Dim]], shared: Sequence[Sequence[int]]
) -> int:
    """How many first axes make up the rows: no input is broadcast along them, and every operand of
    the layer is."""
    lead = 0
    for place, axis in enumerate(wanted):
        if any(axes[place] != axis for axes in inputs) or any(s[place] != 1 for s in shared):
            break
        lead += 1
    return lead


def _fixed(use: Use, axes: Sequence[Dim], first: int) -> tuple[int, ...]:
    """The lengths of the axes from the first on."""
    sizes = tuple(size for size in axes[first:] if isinstance(size, int))
    if len(sizes) != len(axes) - first:
        raise ShapeError(
            f"{use.layer.describe()} needs fixed lengths from axis {first} of {use.output.shape} "
            "on, along which it broadcasts; give Input(shape=...) numbers"
        )
    return sizes
