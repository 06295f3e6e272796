"""Weights in fewer bits as ONNX's operators: float32 numbers of the very codes and scales.

Opset 20 has no codes of 4 bits, and no scales for blocks; those need opset 21.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from tvmlayers.interop.onnx.pen import Pen
from tvmlayers.layers.base import Array
from tvmlayers.layers.stored import fewer_bits
from tvmlayers.quantization import Kind
from tvmlayers.quantization.columns import codes
from tvmlayers.quantization.rows import CODED, parts

FLOAT, UINT8 = 1, 2  # of TensorProto


def kernel(pen: Pen) -> str:
    """The kernel (k, n) of a Dense."""
    kept = fewer_bits(pen.layer)
    if not kept:
        return pen.weight("kernel")
    kind = Kind.of(kept)
    if not kind.is_codes:
        return pen.made("Cast", pen.weight("kernel"), to=FLOAT)
    numbers = codes(pen.layer.weights, kept)
    if kind.base == "int4":
        numbers = numbers.astype(ml_dtypes.int4)
    where: dict[str, Any] = {"axis": 0, "block_size": kind.group} if kind.group else {"axis": 1}
    given = pen.weight("kernel", numbers), pen.weight("scales")
    opset = 21 if kind.group or kind.base == "int4" else 20
    return pen.made("DequantizeLinear", *given, opset=opset, **where)


def rows(pen: Pen, indices: str) -> str:
    """Rows of the table of an Embedding or EmbeddingBag, of which only those looked up are widened.

    The first operator has the layer's name, which is that of a bag when it is read again.
    """
    kept = fewer_bits(pen.layer)
    if kept not in CODED:
        found = pen.end("Gather", pen.weight("embeddings"), indices)
        return pen.op("Cast", found, to=FLOAT) if kept else found
    codes_of_rows, scales, offsets = parts(pen.layer.weights["embeddings"], kept)

    def constant(name: str, array: Array, short: Any, to: int) -> str:
        """Of an int4 table `short` numbers, widened once: no Gather takes codes of 4 bits."""
        if kept == "int8":
            return pen.weight(name, array)
        return pen.made("Cast", pen.weight(name, array.astype(short)), opset=21, to=to)

    table = constant("embeddings", codes_of_rows, ml_dtypes.uint4, UINT8)
    made = pen.op("Cast", pen.end("Gather", table, indices), to=FLOAT)
    for operator, name, array in (("Mul", "scales", scales), ("Add", "offsets", offsets)):
        column = constant(name, array[:, None], np.float16, FLOAT)
        made = pen.op(operator, made, pen.op("Gather", column, indices))
    return made
