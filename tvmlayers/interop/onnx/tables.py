"""Tables that nodes look rows up in: matrices of floats, or codes with scales.

A number of a table in codes is (code - zero point) * scale, as of ONNX's DequantizeLinear and ONNX
Runtime's GatherBlockQuantized. One scale a row is what an Embedding keeps; a table with scales for
blocks of a row is brought into float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.codes import BASES, Array, Rows, unpacked
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


def is_lookup(call: Call | None) -> bool:
    """Whether a node looks rows of a constant matrix up."""
    if call is None or not (call.kind == "Gather" or _has_blocks(call)) or not call.is_constant(0):
        return False
    return not call.get("axis", 0) and not call.get("gather_axis", 0) and call.constant(0).ndim == 2


def _has_blocks(call: Call) -> bool:
    return (call.node.domain, call.node.op_type) == _OF_BLOCKS


def table_of(call: Call) -> Table:
    """The table of a look-up; Unsupported for what is none."""
    if not is_lookup(call):
        raise Unsupported("only rows of a matrix can be looked up")
    if _has_blocks(call):
        return _coded(call, call.inputs[0], _of_blocks(call))
    table, source = call.constant(0), call.graph.nodes.get(call.inputs[0])
    if source is not None and source.op_type == "DequantizeLinear":
        coded = Call(call.graph, source)
        found = _of_rows(coded, coded.constant(0))
        if found is not None:
            return _coded(call, call.inputs[0], found)
    rows, columns = table.shape
    return Table(rows, columns, table.dtype.name, None, table)


def dequantised(call: Call) -> Table | None:
    """The table of a DequantizeLinear of the codes that a Gather looked up; None for another."""
    source = call.source(0)
    if source is None or source.kind != "Gather" or not is_lookup(source):
        return None
    found = _of_rows(call, source.constant(0)) if call.constant(1).size == 1 else None
    return None if found is None else _coded(call, source.inputs[0], found)


def _coded(call: Call, name: str, rows: Rows) -> Table:
    kind, (weight,) = call.graph.held(f"the rows of {name}", rows.held)
    stored = None if kind == "float32" else kind
    count, columns = rows.codes.shape
    return Table(count, columns, "float32", stored, weight)


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
