"""A table in training: which of its updates follows an optimiser, and with what state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tvmlayers import layers
from tvmlayers.codegen.cpu.lookup import add_table
from tvmlayers.codegen.cpu.merge_gradient import rows_of_bags
from tvmlayers.codegen.cpu.table_gradient import (
    TableUpdate,
    row_squares,
    scatter_units,
    sort_units,
    sorted_units,
)
from tvmlayers.codegen.training.clipping import Clip
from tvmlayers.codegen.training.shared import joined
from tvmlayers.codegen.training.tape import Tape, Value, filled_with
from tvmlayers.codegen.weights import Packed
from tvmlayers.errors import ConfigError
from tvmlayers.expr.optimizers import rule_of
from tvmlayers.training.optimizers import SGD

Table = layers.Embedding | layers.EmbeddingBag


def follow_table(
    tape: Tape, layer: Table, indices: Value, rows: Value, *, skipped: int | None, is_bag: bool
) -> None:
    """The table follows the rows of a gradient, each of which serves one index, or a bag of them.

    skipped: the index whose row takes none.
    """
    if layer.trainable:
        use = _Use(indices, rows, skipped, is_bag)
        tape.follow(layer.name, partial(_update, tape, layer), use)


@dataclass(frozen=True)
class _Use:
    """A lookup, see `follow_table`."""

    indices: Value
    rows: Value
    skipped: int | None
    is_bag: bool

    def by_index(self, tape: Tape) -> Value:
        """A row of the gradient for each index, of zeros where it is skipped."""
        if not self.is_bag:
            return self.rows
        width, dtype = int(self.rows.dims[-1]), self.rows.dtype
        made = tape.value("rows_of_bags", (*self.indices.dims, width), dtype)
        kernel = rows_of_bags(
            tape.name("rows_of_bags"),
            width,
            tape.target.lanes(dtype),
            dtype,
            index_dtype=self.indices.dtype,
            skipped=self.skipped,
        )
        tape.call(kernel, self.indices, self.rows, made)
        return made


def _joined_uses(tape: Tape, layer: Table, uses: list[_Use]) -> _Use:
    """All lookups as one. An index that some skip is there with the zeros of those."""
    if len(uses) == 1:
        return uses[0]
    what, skips = layer.describe(), {use.skipped for use in uses}
    rows = joined(tape, what, [use.by_index(tape) for use in uses], 1)
    indices = joined(tape, what, [use.indices for use in uses], 0)
    return _Use(indices, rows, skips.pop() if len(skips) == 1 else None, False)


def _update(tape: Tape, layer: Table, uses: list[_Use]) -> None:
    use = _joined_uses(tape, layer, uses)
    indices, rows = use.indices, use.rows
    if layer.is_quantized:
        raise ConfigError(
            f"{layer.describe()} keeps its table as {layer.stored}: steps train float weights"
        )
    optimizer, dtype = tape.tables, layer.dtype
    name = add_table(layer, tape.arena)
    table = tape.weight(name)
    rule = rule_of(optimizer, of_table=True)
    clip = Clip.of(tape, [name], of_table=True)
    (rule,) = clip.rules(rule) or [rule]
    spec = TableUpdate(
        layer.input_dim,
        layer.output_dim,
        rule,
        tape.target.lanes(dtype),
        dtype,
        indices.dtype,
        use.skipped,
        layer.oob,
        has_row_state=bool(optimizer.row_slots),
        every_row=optimizer.moves_unused and not optimizer.lazy,
    )
    numbers = tape.numbers_of(dtype, of_table=True, norms=clip.norms)
    rows_of = 1 if use.is_bag else len(indices.dims)
    count, per = indices.dims[:rows_of], indices.dims[rows_of:]
    if isinstance(optimizer, SGD) and not (optimizer.moves_unused or optimizer.clips):
        units = scatter_units(tape.name("scatter"), spec)
        tape.update(units, indices, rows, table, numbers, count=count, per=per)
        return
    pairs = tape.value("pairs", indices.dims, "int64")
    others = tape.value("pairs", indices.dims, "int64")
    sort = sort_units(tape.name("sort"), spec)
    sorted_when = tape.prepare if indices.root.given else tape.gather
    sorted_when(sort, indices, pairs, others, count=count, per=per)
    if clip.norms:
        squares = row_squares(tape.name("squares"), spec)
        tape.collect(squares, pairs, rows, *clip.squares, total=pairs.dims)
    states = _states(tape, layer, name)
    units = sorted_units(tape.name("table_update"), spec)
    tape.update(units, pairs, rows, table, *states, numbers, total=pairs.dims)


def _states(tape: Tape, layer: Table, name: str) -> list[Value]:
    optimizer = tape.tables
    begin = getattr(optimizer, "initial_accumulator_value", 0.0)
    shapes = optimizer.state_shapes((layer.input_dim, layer.output_dim))
    return [
        tape.keep(f"{name}:{each}", Packed(shape, layer.dtype, filled_with(begin)), "state", shape)
        for each, shape in shapes.items()
    ]
