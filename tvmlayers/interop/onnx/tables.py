"""Tables that nodes look rows up in: matrices of floats, or codes with scales.

A number of a table in codes is (code - zero point) * scale, as of ONNX's DequantizeLinear and ONNX
Runtime's GatherBlockQuantized, or code * scale + offset, which the same indices look up in three
tables. One scale a row is what an Embedding keeps; a table with scales for blocks of a row is
brought into float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tvmlayers.dtypes import HALF_DTYPES
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.codes import BASES, Array, Held, Rows, fused_rows, unpacked
from tvmlayers.interop.onnx.calls import Call

_OF_BLOCKS = "com.microsoft", "GatherBlockQuantized"


@dataclass(frozen=True)
class Table:
    """What an Embedding is made with."""

    rows: int
    columns: int
    dtype: str
    stored: str | None
    weight: Array


@dataclass(frozen=True)
class LookedUp:
    """Rows of a table that are looked up. look_up: the node that does it; last: the node that gives
    them as floats; table: the table, made when it is asked for."""

    look_up: Call
    last: Call
    table: Callable[[], Table]


def is_lookup(call: Call | None) -> bool:
    """Whether a node looks rows of a constant matrix up."""
    if call is None or not (call.kind == "Gather" or _has_blocks(call)) or not call.is_constant(0):
        return False
    return not call.get("axis", 0) and not call.get("gather_axis", 0) and call.constant(0).ndim == 2


def _has_blocks(call: Call) -> bool:
    return (call.node.domain, call.node.op_type) == _OF_BLOCKS


def rows_of(call: Call) -> LookedUp | None:
    """The rows that a node gives; None where it gives something else."""
    if is_lookup(call):
        return LookedUp(call, call, lambda: table_of(call))
    found = _WIDENED.get(call.kind)
    return None if found is None else found(call)


def table_of(call: Call) -> Table:
    """The table of a look-up; Unsupported for what is none."""
    if not is_lookup(call):
        raise Unsupported("only rows of a matrix can be looked up")
    if _has_blocks(call):
        return _coded(call, [call.inputs[0], *call.inputs[2:]], _of_blocks(call))
    table, source = call.constant(0), call.graph.nodes.get(call.inputs[0])
    if source is not None and source.op_type == "DequantizeLinear":
        coded = Call(call.graph, source)
        found = _of_rows(coded, coded.constant(0))
        if found is not None:
            return _coded(call, call.inputs[:1], found)
    rows, columns = table.shape
    return Table(rows, columns, table.dtype.name, None, table)


def _dequantised(call: Call) -> LookedUp | None:
    """Of a DequantizeLinear of codes that were looked up, with one scale for all."""
    source = _gathered(call)
    if source is None:
        return None
    is_one = call.is_constant(1) and call.constant(1).size == 1
    found = _of_rows(call, source.constant(0)) if is_one else None
    if found is None:
        return None
    return LookedUp(source, call, lambda: _coded(call, [source.inputs[0], *call.inputs[1:]], found))


def _cast(call: Call) -> LookedUp | None:
    """Of a Cast of rows of halves to float32."""
    source = _gathered(call)
    if source is None:
        return None
    table = source.constant(0)
    if call.casts_to() != "float32" or table.dtype.name not in HALF_DTYPES:
        return None
    rows, columns = table.shape
    made = Table(rows, columns, "float32", table.dtype.name, table)
    return LookedUp(source, call, lambda: made)


def _scaled(call: Call) -> LookedUp | None:
    """Of an Add: codes of a row, times its scale, and its offset."""
    for product, last in (call.inputs, reversed(call.inputs)):
        multiplied, offset = call.call_of(product), call.call_of(last)
        if multiplied is None or multiplied.kind != "Mul":
            continue
        for numbers, step in (multiplied.inputs, reversed(multiplied.inputs)):
            cast, scale = call.call_of(numbers), call.call_of(step)
            if cast is None or cast.kind != "Cast" or cast.casts_to() != "float32":
                continue
            codes = _gathered(cast)
            if codes is None or codes.constant(0).dtype != np.uint8:
                continue
            if scale is not None and offset is not None and _have_rows(codes, scale, offset):
                return LookedUp(codes, call, partial(_fused, codes, scale, offset))
    return None


def _have_rows(codes: Call, *columns: Call) -> bool:
    """Whether each column has one float32 number for each row of codes, and the same indices."""
    shape = (len(codes.constant(0)), 1)
    return all(
        each.kind == "Gather"
        and is_lookup(each)
        and each.inputs[1] == codes.inputs[1]
        and each.constant(0).dtype == np.float32
        and each.constant(0).shape == shape
        for each in columns
    )


def _gathered(call: Call) -> Call | None:
    """The Gather of rows that a node takes; None where it takes something else."""
    source = call.source(0)
    return source if source is not None and source.kind == "Gather" and is_lookup(source) else None


_WIDENED: dict[str, Callable[[Call], LookedUp | None]] = {
    "Add": _scaled,
    "Cast": _cast,
    "DequantizeLinear": _dequantised,
}
"""By the node that gives floats of what was looked up."""


def _fused(codes: Call, scales: Call, offsets: Call) -> Table:
    given, name = codes.constant(0), codes.inputs[0]
    source = codes.graph.nodes.get(name)
    before = None if source is None else codes.constant_of(source.input[0])
    bits = 4 if before is not None and before.dtype.name == "uint4" else 8
    steps = [each.constant(0)[:, 0] for each in (scales, offsets)]
    names = [each.inputs[0] for each in (codes, scales, offsets)]
    return _held(codes, names, given.shape, lambda: fused_rows(bits, given, *steps))


def _coded(call: Call, names: Sequence[str], rows: Rows) -> Table:
    return _held(call, names, rows.codes.shape, rows.held)


def _held(
    call: Call, names: Sequence[str], shape: tuple[int, ...], make: Callable[[], Held]
) -> Table:
    """The table of these constants, of which there is one."""
    kind, (weight,) = call.graph.held(("rows", *names), make)
    rows, columns = shape
    return Table(rows, columns, "float32", None if kind == "float32" else kind, weight)


def _of_rows(call: Call, given: Array) -> Rows | None:
    """Codes that a DequantizeLinear takes, with one scale for each row or for all; else None."""
    scales = call.constant(1)
    base = given.dtype.name.removeprefix("u")
    if base not in BASES or scales.dtype != np.float32 or call.get("block_size", 0):
        return None
    if scales.size > 1 and call.get("axis", 1) % 2 != 0:
        return None
    zeros = call.constant(2) if call.has(2) else np.zeros((), given.dtype)
    column = (len(given), 1)
    wide, steps = (np.broadcast_to(each.reshape(-1, 1), column) for each in (zeros, scales))
    bits = 4 if base == "int4" else 8
    return Rows(bits, given.astype(np.int16), wide.astype(np.int16), steps, 0)


def _of_blocks(call: Call) -> Rows:
    """What a GatherBlockQuantized looks up; of uint8 in 4 bits the low ones come first."""
    given, scales = call.constant(0), call.constant(2).astype(np.float32)
    bits, block = int(call.get("bits", 4)), int(call.get("block_size", 128))
    if call.get("quantize_axis", 1) % 2 != 1 or bits not in (4, 8):
        raise Unsupported("only blocks along the columns of a table are there, in 4 or 8 bits")
    is_bytes = given.dtype == np.uint8
    codes = unpacked(given, bits if is_bytes else 8)
    zeros = np.full(scales.shape, 1 << bits - 1 if is_bytes else 0, np.int16)
    if call.has(3):
        zeros = unpacked(call.constant(3), bits if is_bytes else 8)[:, : scales.shape[1]]
    blocks = -(-codes.shape[1] // block) if block > 0 else 0
    if list(scales.shape) != [len(codes), blocks] or zeros.shape != scales.shape:
        raise Unsupported("its scales and zero points are not one for each block of a row")
    return Rows(bits, codes, zeros, scales, block)
