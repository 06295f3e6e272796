"""The table that `model.summary()` prints, and its rows as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from tvmlayers.layers.graph import Node, Shape
from tvmlayers.layers.stored import fewer_bits

if TYPE_CHECKING:
    from tvmlayers.layers.model import Model


@dataclass(frozen=True)
class Row:
    """One use of a layer. FLOPs and bytes are for one sample, free axes counted as 1.

    bytes: input and output once each, and the weights that a batch of 1 reads. stored: how the
    largest weight is kept where that is in fewer bits, else "".
    """

    layer: str
    kind: str
    output_shape: Shape
    params: int
    flops: int
    bytes: int
    stored: str = ""


def rows(model: Model) -> list[Row]:
    """A Row for each node; a layer's parameters are counted at its first use."""
    model.name_parts()
    counted: set[int] = set()
    listed = []
    for node in model.nodes:
        layer = node.layer
        params = 0 if id(layer) in counted else layer.count_params()
        counted.add(id(layer))
        flops = layer.flops(node.inputs, node.output)
        shape = node.output.shape
        moved, stored = bytes_moved(node), fewer_bits(layer)
        listed.append(Row(node.output.name, layer.kind, shape, params, flops, moved, stored))
    return listed


def bytes_moved(node: Node) -> int:
    """Bytes read and written for one sample at batch 1; 0 for a view."""
    if node.layer.is_view:
        return 0
    values = sum(tensor.nbytes for tensor in (*node.inputs, node.output))
    return values + node.layer.weight_bytes(node.inputs)


def summary(model: Model, print_fn: Callable[[str], object] | None = None) -> str:
    """The table as text, after it went to print_fn (else to the terminal)."""
    from tvmlayers.printing import PlainConsole, PlainTable

    listed = rows(model)
    table = PlainTable(f"{type(model).__name__}: {model.name}", show_footer=True)
    table.add_column("layer (type)", "total")
    table.add_column("output shape")
    for head, total in (
        ("params", sum(row.params for row in listed)),
        ("FLOPs / sample", sum(row.flops for row in listed)),
        ("bytes / sample", sum(row.bytes for row in listed)),
    ):
        table.add_column(head, f"{total:,}", justify="right")
    for tensor in model.inputs:
        table.add_row(f"{tensor.name} (Input)", str(tensor.shape), "0", "0", "0")
    for row in listed:
        numbers = (f"{number:,}" for number in (row.params, row.flops, row.bytes))
        kind = f"{row.kind}, {row.stored}" if row.stored else row.kind
        table.add_row(f"{row.layer} ({kind})", str(row.output_shape), *numbers)
    if any(None in tensor.shape[1:] for tensor in model.inputs):
        table.caption = "FLOPs and bytes count each free axis as 1"
    text = StringIO()
    PlainConsole(file=text, width=110, color_system=None).print(table)
    if print_fn is None:
        PlainConsole().print(table)
    else:
        print_fn(text.getvalue())
    return text.getvalue()
