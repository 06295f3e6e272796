"""Rows of the table for what reads an embedding table, and for reductions over its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.torch.calls import Call, Plan, dtype_of, shape_of
from tvmlayers.interop.torch.context import Context
from tvmlayers.interop.torch.products import vectors
from tvmlayers.layers import GlobalAveragePooling1D, GlobalMaxPooling1D, Reshape

if TYPE_CHECKING:
    from torch.fx import Node

MODES = ("sum", "mean", "max")
"""Of aten::embedding_bag, by number."""


def embedding(call: Call, context: Context) -> Plan:
    """Embedding. padding_idx and sparse concern gradients only."""
    return Plan((call["indices"],), lambda indices: context.embedding(call)(indices))


def own_bag(call: Call, context: Context) -> Plan:
    """EmbeddingBag, from the operator of `tvmlayers.torch`."""
    layer = context.bag(call, call["mode"], call["padding_idx"], call["include_last_offset"])
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


def getitem(call: Call, context: Context) -> Plan:
    """The first result of a bag, or of a maximum over an axis."""
    node, index = call.node.args
    source = call.call_of(node)
    assert source is not None
    if index != 0:
        raise Unsupported(f"no layer here gives result {index} of {source.operator}")
    if source.operator in ("embedding_bag", "_embedding_bag"):
        return _bag(source, context)
    if source.operator in ("max", "min"):
        return reduced(source.operator)(source, context)
    raise Unsupported(f"no layer here computes {source.operator}")


def _bag(call: Call, context: Context) -> Plan:
    """EmbeddingBag, with offsets or with one bag for each row."""
    padding = call.arguments.get("padding_idx")
    if call.operator == "_embedding_bag" and padding == -1:
        padding = None
    layer = context.bag(call, MODES[call["mode"]], padding, call["include_last_offset"])
    indices, offsets, factors = call["indices"], call["offsets"], call["per_sample_weights"]
    rows = _row_by_row(call, indices, offsets)
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


def reduced(mode: str) -> Callable[[Call, Context], Plan]:
    """The row of a reduction over the steps of (batch, steps, features)."""

    def row(call: Call, context: Context) -> Plan:
        x = call.first
        axes = call.arguments.get("dim")
        rank = len(shape_of(x))
        axes = [axes] if isinstance(axes, int) else list(axes or [])
        if rank == 0 or dtype_of(x) != _result_dtype(call):
            raise Unsupported("only floats of one dtype can be reduced")
        if [axis % rank for axis in axes] == [1]:
            keep = bool(call["keepdim"])
            if rank == 3:
                return _over_steps(call, context, x, mode, keep)
            if rank == 2 and mode == "sum":
                return _over_products(call, context, x, keep)
        raise Unsupported(
            "only axis 1 of (batch, steps, features) can be reduced over"
            + (", or the products of two vectors summed" if mode == "sum" else "")
        )

    return row


def _result_dtype(call: Call) -> str:
    value = call.node.meta["val"]
    first = value[0] if isinstance(value, (tuple, list)) else value
    return str(first.dtype).removeprefix("torch.")


def _over_steps(call: Call, context: Context, x: Node, mode: str, keep: bool) -> Plan:
    features = shape_of(x)[2]

    def kept(pooled: Any) -> Any:
        return context.plain(call, Reshape, (1, features))(pooled) if keep else pooled

    if mode == "mean":
        return Plan((x,), lambda x: kept(context.plain(call, GlobalAveragePooling1D)(x)))
    found = _lookup(call, x, mode)
    if found is None and mode == "max":
        return Plan((x,), lambda x: kept(context.plain(call, GlobalMaxPooling1D)(x)))
    if found is None:
        raise Unsupported(f"only rows that an embedding looked up can be reduced by {mode}")
    lookup, weights = found
    layer = context.bag(lookup, mode, None, False)
    taken = (lookup["indices"],) if weights is None else (lookup["indices"], weights)
    return Plan(taken, lambda i, w=None: kept(layer(i, per_sample_weights=w)))


def _lookup(call: Call, x: Node, mode: str) -> tuple[Call, Node | None] | None:
    """(lookup of (batch, length), factors of its rows or None) that x is, where it is that."""
    source = call.call_of(x)
    if source is None:
        return None
    if source.operator == "embedding" and len(shape_of(source["indices"])) == 2:
        return source, None
    if source.operator == "mul" and mode == "sum":
        for rows, factors in ((source["self"], source["other"]), (source["other"], source["self"])):
            found, scaled = _lookup(call, rows, ""), call.call_of(factors)
            if found is None or scaled is None or scaled.operator != "unsqueeze":
                continue
            if scaled["dim"] in (-1, 2) and shape_of(scaled.first) == shape_of(found[0]["indices"]):
                return found[0], scaled.first
    return None


def _over_products(call: Call, context: Context, x: Node, keep: bool) -> Plan:
    source = call.call_of(x)
    if source is None or source.operator != "mul":
        raise Unsupported("only the products of two vectors (batch, k) can be summed")
    return vectors(call, context, source["self"], source["other"], keep)
