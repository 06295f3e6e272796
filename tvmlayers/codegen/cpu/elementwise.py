"""Operations element by element: merges of several tensors, and functions of one with operands."""

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np

from tvmlayers.codegen.cpu.kernel import Functions, Lowered, Use, core, elements
from tvmlayers.codegen.cpu.rows import Pointer, call_core, fixed, row_kernel
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.errors import ShapeError
from tvmlayers.expr.elementwise import Operand, broadcast
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
    names, shapes = packed_operands(layer, dtype, arena)
    shared = [(*(1,) * (len(wanted) - len(shape)), *shape) for shape in shapes]
    lead = _leading(wanted, inputs, shared)
    lengths = _fixed(use, wanted, lead)
    operands = [Operand(_fixed(use, axes, lead), True) for axes in inputs]
    operands += [Operand(shape[lead:], False) for shape in shared]
    function = partial(operation_of(layer).part("formula"), layer)
    functions: Functions = {}
    made, function = core(
        f"{name}_rows", broadcast(function, operands, lengths, dtype), row_spaces.plain
    )
    functions[made] = function
    pointers = [
        Pointer(f"x{i}", dtype, fixed(prod(each.lengths) if each.has_rows else 0))
        for i, each in enumerate(operands)
    ]
    pointers.append(Pointer("out", dtype, fixed(prod(lengths))))
    moved = prod(lengths) + sum(prod(each.lengths) for each in operands if each.has_rows)
    whole = next(i for i, tensor in enumerate(use.inputs) if tensor.rank == len(wanted))
    kernel = row_kernel(
        name,
        functions,
        pointers,
        ["count"],
        moved * np.dtype(dtype).itemsize,
        call_core(made, pointers),
        lambda given: [elements(given[whole][:lead])],
        {"kind": "elementwise", "layer": layer.name, "dtype": dtype},
    )
    return Lowered(kernel, names)


def packed_operands(
    layer: Layer, dtype: str, arena: ArenaPlan
) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """(names, shapes) of what the kernel of a layer reads beside its inputs.

    All weights go into the arena, also those that were made into something else: `verify` reads
    them there. dtype: of the inputs.
    """
    operands = layer.operands()
    for key, array in {**layer.weights, **operands}.items():
        arena.add_as_is(f"{layer.name}/{key}", array.astype(dtype))
    return tuple(f"{layer.name}/{key}" for key in operands), [a.shape for a in operands.values()]


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
