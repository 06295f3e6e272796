"""Rows of the table for what reads an embedding table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.torch.calls import Call, Plan, shape_of
from tvmlayers.interop.torch.context import Context

if TYPE_CHECKING:
    from torch.fx import Node

MODES = ("sum", "mean", "max")
"""Of aten::embedding_bag, by number."""


def embedding(call: Call, context: Context) -> Plan:
    """Embedding. padding_idx and sparse concern gradients only."""
    indices, oob = clipped(call, context, call["indices"])
    return Plan((indices,), lambda indices: context.embedding(call, oob)(indices))


def clipped(call: Call, context: Context, indices: Node) -> tuple[Node, str]:
    """(indices, oob) of a look-up; those that are clamped to the table are clipped there."""
    clamp, last = call.call_of(indices), context.table(call).shape[0] - 1
    if clamp is None or clamp.operator != "clamp" or (clamp["min"], clamp["max"]) != (0, last):
        return indices, "raise"
    return clamp.first, "clip"


def own_bag(call: Call, context: Context) -> Plan:
    """EmbeddingBag, from the operator of `tvmlayers.torch`."""
    layer = context.bag(
        call,
        mode=call["mode"],
        padding_idx=call["padding_idx"],
        include_last_offset=call["include_last_offset"],
    )
    indices, offsets, factors = call["indices"], call["offsets"], call["per_sample_weights"]
    if offsets is not None:
        context.flat |= {indices} if factors is None else {indices, factors}
    given = {"indices": indices, "offsets": offsets, "per_sample_weights": factors}
    names = [name for name, node in given.items() if node is not None]
    takes = tuple(given[name] for name in names)
    return Plan(takes, lambda *tensors: layer(**dict(zip(names, tensors, strict=True))))


def unpicked(call: Call, context: Context) -> Plan:
    """A bag as a whole is four tensors, of which only the first can be used."""
    raise Unsupported("only the bags themselves can be used, not its other results")


def bag(call: Call, context: Context) -> Plan:
    """EmbeddingBag, with offsets or with one bag for each row."""
    padding = call.arguments.get("padding_idx")
    if call.operator == "_embedding_bag" and padding == -1:
        padding = None
    indices, offsets, factors = call["indices"], call["offsets"], call["per_sample_weights"]
    rows = _row_by_row(call, indices, offsets)
    if rows is None:
        indices, oob = clipped(call, context, indices)
    else:
        rows, oob = clipped(call, context, rows)
    layer = context.bag(
        call,
        mode=MODES[call["mode"]],
        padding_idx=padding,
        include_last_offset=call["include_last_offset"],
        oob=oob,
    )
    if rows is None:
        taken = (indices, offsets) if factors is None else (indices, offsets, factors)
        context.flat |= {indices} if factors is None else {indices, factors}
        return Plan(taken, layer)
    if factors is None:
        return Plan((rows,), layer)
    weights = _flattened(call, factors)
    if weights is None or shape_of(weights) != shape_of(rows):
        raise Unsupported("per_sample_weights are (batch, length), as the indices are")
    return Plan((rows, weights), lambda i, w: layer(i, per_sample_weights=w))


def _row_by_row(call: Call, indices: Node, offsets: Node) -> Node | None:
    """The indices (batch, length) whose rows are the bags; None where offsets are the user's.

    F.embedding_bag makes flat indices and offsets 0, length, 2 * length, ... of them.
    """
    steps, rows = call.call_of(offsets), _flattened(call, indices)
    if steps is None or steps.operator != "arange" or rows is None:
        return None
    step = steps.arguments.get("step", 1)
    if hasattr(step, "meta"):  # of a free length
        step = str(step.meta["val"])
    if steps.arguments.get("start", 0) != 0 or step != shape_of(rows)[1]:
        return None
    return rows


def _flattened(call: Call, node: Node) -> Node | None:
    """The tensor (batch, length) that node is the flat form of."""
    source = call.call_of(node)
    if source is None or source.operator not in ("reshape", "view", "flatten"):
        return None
    return source.first if len(shape_of(source.first)) == 2 and len(source.shape) == 1 else None
