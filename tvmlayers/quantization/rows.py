"""Tables in fewer bits: halves, or bytes with a scale and an offset for each row.

A row of bytes lies as PyTorch's `embedding_bag_byte_prepack` and FBGEMM's fused 8-bit rows do: its
codes, one byte each, then float32 scale and float32 offset. Number j is code[j] * scale + offset.
"""

from __future__ import annotations

import numpy as np

from tvmlayers.dtypes import limits, numpy_dtype
from tvmlayers.errors import WeightsError
from tvmlayers.quantization.form import (
    Array,
    Form,
    Held,
    as_half,
    codes_of,
    half_errors,
    half_steps,
    need_finite,
    steps_of,
)

TABLE = "embeddings"
TAIL_BYTES = 8  # scale and offset, behind the codes of a row
_MOST = 255
_ROWS_AT_A_TIME = 1 << 14  # of a table that may be as large as the memory


def row_bytes(width: int, kind: str) -> int:
    """Bytes of a row of `width` numbers; kind: as it is kept, any float dtype or "int8"."""
    return width + TAIL_BYTES if kind == "int8" else width * numpy_dtype(kind).itemsize


def fused(codes: Array, scales: Array, offsets: Array) -> Array:
    """Rows of bytes (rows, width + 8) uint8 out of codes (rows, width) uint8, scales and offsets
    (rows,) float32."""
    tail = np.stack([scales, offsets], axis=1).astype("<f4")
    return np.concatenate([codes, tail.view(np.uint8)], axis=1)


def parts(rows: Array) -> tuple[Array, Array, Array]:
    """Codes, scales and offsets out of rows of bytes, the other way round."""
    codes = rows[..., :-TAIL_BYTES]
    tail = np.ascontiguousarray(rows[..., -TAIL_BYTES:]).view("<f4")
    return codes, tail[..., 0], tail[..., 1]


def _specs(shape: tuple[int, int], kind: str) -> dict[str, tuple[tuple[int, ...], str]]:
    rows, width = shape
    if kind == "int8":
        return {TABLE: ((rows, width + TAIL_BYTES), "uint8")}
    return {TABLE: (shape, kind)}


def _hold(table: Array, kind: str, where: str) -> dict[str, Array]:
    if kind != "int8":
        return {TABLE: as_half(table, kind, where)}
    rows, width = table.shape
    held = np.empty((rows, width + TAIL_BYTES), np.uint8)
    for start in range(0, rows, _ROWS_AT_A_TIME):
        part = table[start : start + _ROWS_AT_A_TIME].astype(np.float64)
        need_finite(part, where, start)
        least = part.min(axis=1, keepdims=True)
        spans = part.max(axis=1, keepdims=True) - least
        steps = steps_of(spans, _MOST)
        wide = steps.astype(np.float64) * _MOST > limits("float32").largest
        if wide.any():
            raise WeightsError(
                f"{where} has a row, {start + int(wide.argmax())}, whose numbers lie farther apart "
                "than float32 reaches; keep the table as bfloat16, or scale it"
            )
        codes = codes_of(part - least, steps).astype(np.uint8)
        held[start : start + _ROWS_AT_A_TIME] = fused(codes, steps[:, 0], least[:, 0])
    return {TABLE: held}


def _check(held: Held, kind: str, where: str) -> None:
    if kind == "int8":
        _, scales, offsets = parts(held[TABLE])
        wrong = ~(np.isfinite(scales) & np.isfinite(offsets))
        if wrong.any():
            raise WeightsError(
                f"{where} has a row, {int(wrong.argmax())}, whose scale or offset is not finite; "
                "rows of bytes end with both as float32"
            )


def _floats(held: Held, kind: str) -> Array:
    if kind != "int8":
        return held[TABLE].astype(np.float64)
    codes, scales, offsets = parts(held[TABLE])
    numbers: Array = codes * scales[..., None].astype(np.float64) + offsets[..., None]
    return numbers


def _errors(held: Held, kind: str) -> Array:
    if kind != "int8":
        return half_errors(held[TABLE], kind)
    _, scales, _ = parts(held[TABLE])
    return half_steps(scales[..., None])


def _bound(held: Held, kind: str) -> float:
    table = held[TABLE]
    errors = (
        _errors({TABLE: table[start : start + _ROWS_AT_A_TIME]}, kind)
        for start in range(0, len(table), _ROWS_AT_A_TIME)
    )
    return max(float(part.max(where=np.isfinite(part), initial=0.0)) for part in errors)


ROWS = Form(_specs, _hold, _check, _floats, _errors, _bound)
