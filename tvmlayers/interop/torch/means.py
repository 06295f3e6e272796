"""Rows of the table for reductions: over the steps of a sequence, weighted, masked or plain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.torch.calls import Call, Plan, dtype_of, shape_of
from tvmlayers.interop.torch.context import Context
from tvmlayers.interop.torch.products import vectors
from tvmlayers.interop.torch.tables import clipped
from tvmlayers.layers import GlobalAveragePooling1D, GlobalMaxPooling1D, Reshape

if TYPE_CHECKING:
    from torch.fx import Node

SAME_NUMBERS = ("_to_copy", "clone", "expand", "expand_as", "to", "type_as")


@dataclass(frozen=True)
class Lookup:
    """Rows (batch, steps, d) of a table, each times a factor.

    call: of aten::embedding; factors: (batch, steps), None for 1; padding: the index whose rows
    have the factor 0, if there is one.
    """

    call: Call
    factors: Node | None = None
    padding: int | None = None


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

    def averaged(x: Any) -> Any:
        if x.mask_of is not None:  # of another mean: this one takes all steps
            x = context.plain(call, Reshape, x.shape[1:])(x)
        return context.plain(call, GlobalAveragePooling1D)(x)

    def kept(pooled: Any) -> Any:
        return context.plain(call, Reshape, (1, features))(pooled) if keep else pooled

    if mode == "mean":
        return Plan((x,), lambda x: kept(averaged(x)))
    found = _lookup(call, x, mode)
    if found is not None and mode == "max":
        table = found.call["weight"]
        if len(table.users) > 1 or len(found.call.node.users) > 1:
            found = None  # a table with other readers is one layer
    if found is None and mode == "max":
        return Plan((x,), lambda x: kept(context.plain(call, GlobalMaxPooling1D)(x)))
    if found is None:
        raise Unsupported(f"only rows that an embedding looked up can be reduced by {mode}")
    plan = _bag(context, found, mode)
    return Plan(plan.takes, lambda *tensors: kept(plan.make(*tensors)))


def _lookup(call: Call, x: Any, mode: str) -> Lookup | None:
    """What x looks up, where it is that; factors and padding for mode "sum" only."""
    source = call.call_of(x)
    if source is None:
        return None
    if source.operator == "embedding" and len(shape_of(source["indices"])) == 2:
        return Lookup(source)
    if source.operator == "mul" and mode == "sum":
        for rows, other in ((source["self"], source["other"]), (source["other"], source["self"])):
            found, factors = _lookup(call, rows, ""), _factors(call, other)
            if found is None or factors is None:
                continue
            masked = _mask(call, factors)
            if masked is not None and masked[0] is found.call["indices"]:
                return Lookup(found.call, None, masked[1])
            if masked is None and dtype_of(factors) == dtype_of(rows):
                return Lookup(found.call, factors)
    return None


def _factors(call: Call, node: Any) -> Node | None:
    """The numbers (batch, steps) that (batch, steps, 1), or what is expanded of it, repeats."""
    source = call.call_of(node)
    while source is not None and source.operator in SAME_NUMBERS:
        source = call.call_of(source.first)
    if source is None or source.operator != "unsqueeze" or len(source.shape) != 3:
        return None
    return _bare(call, source.first) if source["dim"] in (-1, 2) else None


def _bare(call: Call, node: Node) -> Node:
    """A tensor before it was cast or copied."""
    source = call.call_of(node)
    while source is not None and source.operator in SAME_NUMBERS:
        if shape_of(source.first) != source.shape:
            break
        node = source.first
        source = call.call_of(node)
    return node


def _mask(call: Call, node: Node) -> tuple[Node, int] | None:
    """(indices, padding) of a comparison of indices with what they are padded with."""
    source = call.call_of(node)
    if source is None or source.operator != "ne" or not isinstance(source["other"], int):
        return None
    return source["self"], source["other"]


def weighted_mean(call: Call, context: Context) -> Plan | None:
    """sum(x * factors) / sum(factors) over the steps; None for another quotient.

    A mean of what a mask leaves is a pooling whose Embedding has the mask, or a bag where bags of
    nothing give 0 because the number of steps is at least 1.
    """
    above, (below, least) = call.call_of(call["self"]), _divisor(call)
    if above is None or below is None or above.operator != "sum" or not _is_over_steps(above):
        return None
    product = call.call_of(above.first)
    if product is None or product.operator != "mul" or len(product.shape) != 3:
        return None
    for x, other in ((product["self"], product["other"]), (product["other"], product["self"])):
        factors = _factors(call, other)
        if factors is None or factors is not below:
            continue
        masked, found = _mask(call, factors), _lookup(call, x, "")
        if masked is not None and least is None and masked[1] == 0:
            return _masked_pooling(call, context, x, masked[0])
        if found is not None and masked is not None and least is not None and 0 < least <= 1:
            indices, padding = masked
            if indices is found.call["indices"]:
                return _bag(context, Lookup(found.call, None, padding), "mean")
        is_weighted = masked is None and least is None and dtype_of(factors) == dtype_of(x)
        if found is not None and is_weighted:
            return _bag(context, Lookup(found.call, factors), "mean")
        raise Unsupported(
            "only means of rows that an embedding looked up are there, weighted by floats or "
            "without the steps of one index, and means of x without those of index 0"
        )
    return None


def _divisor(call: Call) -> tuple[Node | None, float | None]:
    """(what the sum over the steps is that a call divides by, the least that it is taken for)."""
    source, least = call.call_of(call["other"]), None
    while source is not None and source.operator in ("clamp", "clamp_min", "unsqueeze", "expand"):
        if source.operator.startswith("clamp"):
            if source.arguments.get("max") is not None:
                return None, None
            least = source["min"]
        source = call.call_of(source.first)
    if source is None or source.operator != "sum" or not _is_over_steps(source):
        return None, None
    node = source.first
    return (_bare(call, node) if len(shape_of(node)) == 2 else _factors(call, node)), least


def _is_over_steps(call: Call) -> bool:
    axes, rank = call.arguments.get("dim"), len(shape_of(call.first))
    return rank in (2, 3) and [axis % rank for axis in axes or ()] == [1]


def _masked_pooling(call: Call, context: Context, x: Node, ids: Node) -> Plan:
    """GlobalAveragePooling1D of what has the mask of these indices."""
    context.masked.add(ids)

    def make(x: Any, indices: Any) -> Any:
        if x.mask_of is not indices:
            raise Unsupported("its mask is not that of the embedding that x was made of")
        return context.plain(call, GlobalAveragePooling1D)(x)

    return Plan((x, ids), make)


def _bag(context: Context, found: Lookup, mode: str) -> Plan:
    """The EmbeddingBag of what is looked up."""
    indices, oob = clipped(found.call, context, found.call["indices"])
    layer = context.bag(found.call, mode=mode, padding_idx=found.padding, oob=oob)
    taken = (indices,) if found.factors is None else (indices, found.factors)
    return Plan(taken, lambda i, w=None: layer(i, per_sample_weights=w))


def _over_products(call: Call, context: Context, x: Node, keep: bool) -> Plan:
    source = call.call_of(x)
    if source is None or source.operator != "mul":
        raise Unsupported("only the products of two vectors (batch, k) can be summed")
    return vectors(call, context, source["self"], source["other"], keep)
