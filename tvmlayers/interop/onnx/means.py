"""Rows of the table for look-ups and for reductions over steps, weighted, masked or plain."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tvmlayers import layers
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.onnx import tables
from tvmlayers.interop.onnx.calls import Call
from tvmlayers.interop.onnx.patterns import SAME_NUMBERS, scalar, stripped
from tvmlayers.interop.onnx.products import vectors
from tvmlayers.layers.graph import SymbolicTensor


@dataclass(frozen=True)
class Lookup:
    """Rows (batch, steps, d) of a table, each times a factor.

    factors: (batch, steps), "" for 1; padding: the index whose rows have the factor 0.
    """

    rows: tables.LookedUp
    factors: str = ""
    padding: int | None = None

    @property
    def indices(self) -> str:
        return self.rows.look_up.inputs[1]


@dataclass(frozen=True)
class Factors:
    """Numbers (batch, steps): the tensor of that name, or 0 where indices are `padding`, else 1."""

    name: str
    padding: int | None = None


def embedding(call: Call) -> SymbolicTensor:
    """Embedding: rows of a constant matrix."""
    return _embedding(call, tables.table_of(call))


def widened(call: Call) -> SymbolicTensor | None:
    """Embedding whose rows are looked up in fewer bits; None where a node gives no such rows."""
    found = tables.rows_of(call)
    return None if found is None else _embedding(found.look_up, found.table())


def dequantised(call: Call) -> SymbolicTensor:
    """Embedding whose rows are looked up as codes, and multiplied with one scale behind that."""
    made = widened(call)
    if made is None:
        raise Unsupported("only constants, and codes that a Gather looked up, are dequantised")
    return made


def _embedding(call: Call, table: tables.Table) -> SymbolicTensor:
    indices, oob = _clipped(call)
    is_masked = call.inputs[0] in call.graph.masked

    def make(name: str) -> layers.Layer:
        return layers.Embedding(
            table.rows,
            table.columns,
            mask_zero=is_masked,
            oob=oob,
            dtype=table.dtype,
            stored=table.stored,
            name=name,
        )

    kind = f"embedding {oob} {table.stored}"
    made: SymbolicTensor = call.weighted(kind, make, table.weight)(indices)
    return made


def _clipped(call: Call) -> tuple[SymbolicTensor, str]:
    """(indices, oob) of a look-up; those that are clipped to the table are clipped there."""
    clip, last = call.source(1), call.constant(0).shape[0] - 1
    if clip is None or clip.kind != "Clip":
        return call.tensor(1), "raise"
    limits = [scalar(call, limit) if limit else None for limit in clip.inputs[1:]]
    return (clip.tensor(), "clip") if limits == [0, last] else (call.tensor(1), "raise")


def over_steps(kind: str) -> Callable[[Call], SymbolicTensor]:
    """The row of a reduction of (batch, steps, features): "mean", "max", "min" or "sum"."""

    def row(call: Call) -> SymbolicTensor:
        found = lookup_of(call, call.inputs[0], kind)
        is_bag = found and (kind in ("sum", "min") or _is_bag(found.rows))
        if found is not None and is_bag and call.axes(3) == (1,):
            return _kept(call, _bag(found, kind))
        source = call.source(0)
        if kind == "sum" and source is not None and source.kind == "Mul":
            pair = [name for name in source.inputs if call.constant_of(name) is None]
            if len(pair) == 2 and call.tensor_of(pair[0]).rank == 2 and call.axes(2) == (1,):
                return vectors(call, *pair)
        x = call.tensor()
        if x.rank != 3 or call.axes(3) != (1,) or kind in ("sum", "min"):
            raise Unsupported(
                "only axis 1 of (batch, steps, features) can be reduced over"
                + (", of rows that an embedding looked up" if kind in ("sum", "min") else "")
            )
        return _kept(call, _pooled(call, x, kind))

    return row


def _is_bag(rows: tables.LookedUp) -> bool:
    """Whether what reduces looked up rows is a bag, where a pooling is there as well.

    A mean of no steps is NaN, of a bag of nothing 0; and a table with other readers is one layer.
    """
    look_up, readers = rows.look_up, rows.last.graph.readers
    names = look_up.inputs[0], rows.last.node.output[0]
    return bool(look_up.tensor(1).shape[1] and all(readers[name] == 1 for name in names))


def _pooled(call: Call, x: SymbolicTensor, kind: str) -> SymbolicTensor:
    if kind == "max":
        return call.layer(layers.GlobalMaxPooling1D)(x)  # type: ignore[no-any-return]
    if x.mask_of is not None:  # of another mean: this one takes all steps
        x = call.layer(layers.Reshape, x.shape[1:])(x)
    return call.layer(layers.GlobalAveragePooling1D)(x)  # type: ignore[no-any-return]


def _kept(call: Call, pooled: SymbolicTensor) -> SymbolicTensor:
    """A result whose reduced axis stays, where the node says so."""
    if not call.get("keepdims", 1):
        return pooled
    return call.layer(layers.Reshape, (1, pooled.shape[1]))(pooled)  # type: ignore[no-any-return]


def lookup_of(call: Call, name: str, kind: str) -> Lookup | None:
    """What a tensor looks up; factors and padding for kind "sum" only."""
    source = call.call_of(name)
    if source is None:
        return None
    if (rows := tables.rows_of(source)) is not None:
        return Lookup(rows) if rows.look_up.tensor(1).rank == 2 else None
    if kind == "sum" and (weighed := _weighed(source)):
        x, factors = weighed
        found = lookup_of(call, x, "")
        if found is None or factors.padding is None:
            return None if found is None else Lookup(found.rows, factors.name)
        if found.indices == factors.name:
            return Lookup(found.rows, "", factors.padding)
    return None


def _weighed(call: Call) -> tuple[str, Factors] | None:
    """(x, factors) of x (batch, steps, d) times factors for each step."""
    if call.kind == "Mul":
        for x, other in (call.inputs, reversed(call.inputs)):
            if factors := _factors(call, other, 3):
                return x, factors
    if call.kind == "Where":
        hidden, kept = (_condition(call, call.inputs[0], is_kept) for is_kept in (False, True))
        for found, zero, rows in ((hidden, 1, 2), (kept, 2, 1)):
            if found is not None and scalar(call, call.inputs[zero]) == 0:
                return call.inputs[rows], found
    return None


def _condition(call: Call, name: str, is_kept: bool) -> Factors | None:
    """The indices of a condition (batch, steps, 1), which says which steps are kept, or hidden."""
    source = call.call_of(stripped(call, name))
    if source is None or source.kind != "Unsqueeze" or _axes(source) not in ([2], [-1]):
        return None
    return _compared(call, source.inputs[0], is_kept)


def _compared(call: Call, name: str, is_kept: bool) -> Factors | None:
    """(indices, padding) of indices == padding, or, is_kept, of indices != padding."""
    source = call.call_of(stripped(call, name))
    if is_kept and source is not None and source.kind == "Not":
        return _compared(call, source.inputs[0], False)
    if source is None or source.kind != "Equal" or is_kept:
        return None
    for indices, other in (source.inputs, reversed(source.inputs)):
        if (padding := scalar(call, other)) is not None:
            return Factors(stripped(call, indices), int(padding))
    return None


def _factors(call: Call, name: str, rank: int) -> Factors | None:
    """What numbers (batch, steps), or of rank 3 with an axis of 1 behind, are."""
    name = stripped(call, name)
    source = call.call_of(name)
    if rank == 3:
        if source is None or source.kind != "Unsqueeze" or _axes(source) not in ([2], [-1]):
            return None
        name = stripped(call, source.inputs[0])
        source = call.call_of(name)
    if source is not None and source.kind == "Where":
        numbers = [scalar(call, number) for number in source.inputs[1:]]
        if numbers in ([0.0, 1.0], [1.0, 0.0]):
            return _compared(call, source.inputs[0], numbers[0] == 1.0)
    return _compared(call, name, True) or Factors(name)


def _axes(call: Call) -> list[int]:
    given = call.get("axes", None)
    return list(call.constant(1).reshape(-1).tolist() if given is None else given)


@dataclass(frozen=True)
class WeightedMean:
    """sum(x * factors) / sum(factors) over the steps, the divisor at least `least` if not None."""

    x: str
    factors: Factors
    least: float | None


def weighted_mean_of(call: Call) -> WeightedMean | None:
    """The weighted mean that a Div is, where it is one."""
    above, least, below = call.source(0), None, stripped(call, call.inputs[1])
    weighed = None
    if above is not None and above.kind == "ReduceSum" and _sums_steps(above):
        product = above.source(0)
        weighed = _weighed(product) if product is not None else None
    source = call.call_of(below)
    while source is not None and source.kind in ("Clip", "Max", "Unsqueeze", *SAME_NUMBERS):
        if source.kind in ("Clip", "Max"):
            limits = [scalar(call, name) if name else None for name in source.inputs]
            if len(limits) < 2 or any(limit is not None for limit in limits[2:]):
                return None
            least = limits[1]
        source = source.source(0)
    if weighed is None or source is None or source.kind != "ReduceSum" or not _sums_steps(source):
        return None
    x, factors = weighed
    known = (_factors(call, source.inputs[0], rank) for rank in (2, 3))
    return WeightedMean(x, factors, least) if factors in known else None


def _sums_steps(call: Call) -> bool:
    return _axes(call) == [1] if call.has(1) or call.get("axes", None) else False


def weighted_mean(call: Call) -> SymbolicTensor | None:
    """A pooling with a mask, or a bag; None where a Div is something else."""
    mean = weighted_mean_of(call)
    if mean is None:
        return None
    factors, found = mean.factors, lookup_of(call, mean.x, "")
    if factors.padding == 0 and mean.least is None:
        x, indices = call.tensor_of(mean.x), call.tensor_of(factors.name)
        if x.mask_of is not indices:
            raise Unsupported("its mask is not that of the Gather that x was made of")
        return call.layer(layers.GlobalAveragePooling1D)(x)  # type: ignore[no-any-return]
    is_least = mean.least is not None and 0 < mean.least <= 1
    is_own = found is not None and found.indices == factors.name
    if found is not None and is_own and factors.padding is not None and is_least:
        return _bag(Lookup(found.rows, "", factors.padding), "mean")
    if found is not None and factors.padding is None and mean.least is None:
        return _bag(Lookup(found.rows, factors.name), "mean")
    raise Unsupported(
        "only means of gathered rows are there, weighted by floats or without the steps of one "
        "index, and means of x without those of index 0"
    )


def _bag(found: Lookup, mode: str) -> SymbolicTensor:
    """The EmbeddingBag of what is looked up, which has the name of the Gather."""
    call, table = found.rows.look_up, found.rows.table()
    indices, oob = _clipped(call)
    factors = call.tensor_of(found.factors) if found.factors else None

    def make(name: str) -> layers.Layer:
        return layers.EmbeddingBag(
            table.rows,
            table.columns,
            mode=mode,
            padding_idx=found.padding,
            oob=oob,
            dtype=table.dtype,
            stored=table.stored,
            name=name,
        )

    kind = f"bag {mode} {found.padding} {oob} {table.stored}"
    layer: Any = call.weighted(kind, make, table.weight)
    made: SymbolicTensor = layer(indices, per_sample_weights=factors)
    return made


def masked_tables(calls: Iterable[Call]) -> set[str]:
    """The tables whose rows are averaged without those of index 0."""
    listed = list(calls)
    means = [weighted_mean_of(call) for call in listed if call.kind == "Div"]
    masked = {m.factors.name for m in means if m and m.factors.padding == 0 and m.least is None}
    lookups = [call for call in listed if call.kind == "Gather"]
    return {call.inputs[0] for call in lookups if stripped(call, call.inputs[1]) in masked}
