"""Operations element by element: merges of several tensors, and functions of one with operands."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from tvmlayers.codegen.cpu.kernel import Functions, Lowered, Use, core, elements, in_halves
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
    layer, dtype = use.layer, use.dtype(0)
    assert isinstance(layer, Layer)
    wanted = use.output.axes
    inputs = [aligned(tensor.axes, len(wanted)) for tensor in use.inputs]
    packed = packed_operands(layer, dtype, arena)
    shared = [(*(1,) * (len(wanted) - len(each.shape)), *each.shape) for each in packed]
    lead = _leading(wanted, inputs, shared)
    lengths = _fixed(use, wanted, lead)
    operands = [Operand(_fixed(use, axes, lead), True) for axes in inputs]
    operands += [Operand(shape[lead:], False) for shape in shared]
    function = partial(operation_of(layer).part("formula"), layer)
    functions: Functions = {}
    expression = broadcast(function, operands, lengths, wide(dtype))
    dtypes = [*(dtype for _ in inputs), *(each.dtype for each in packed)]
    wider = [f"x{i}" for i, each in enumerate(dtypes) if each != dtype]
    kept = in_halves(expression, dtype, but=wider)
    made, function = core(f"{name}_rows", expression, row_spaces.plain, kept=kept)
    functions[made] = function
    pointers = [
        Pointer(f"x{i}", read_as(each), fixed(prod(operand.lengths) if operand.has_rows else 0))
        for i, (operand, each) in enumerate(zip(operands, dtypes, strict=True))
    ]
    pointers.append(Pointer("out", read_as(dtype), fixed(prod(lengths))))
    moved = prod(lengths) + sum(prod(each.lengths) for each in operands if each.has_rows)
    whole = next(i for i, tensor in enumerate(use.inputs) if tensor.rank == len(wanted))
    kernel = row_kernel(
        name,
        functions,
        pointers,
        ["count"],
        moved * numpy_dtype(dtype).itemsize,
        call_core(made, pointers),
        lambda given: [elements(given[whole][:lead])],
        {"kind": "elementwise", "layer": layer.name, "dtype": dtype},
    )
    return Lowered(kernel, tuple(each.name for each in packed))


@dataclass(frozen=True)
class PackedOperand:
    """What a kernel reads beside its inputs, by its name in the arena."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def packed_operands(layer: Layer, dtype: str, arena: ArenaPlan) -> list[PackedOperand]:
    """What the kernel of a layer reads beside its inputs, which are of this dtype.

    All weights go into the arena, also those that were made into something else: `verify` reads
    them there. What is made of weights is no half, or it would be rounded once more.
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
