"""Tables in fewer bits: halves, or codes with a scale and an offset for each row.

A row of int8 lies as PyTorch's `embedding_bag_byte_prepack` and FBGEMM's fused 8-bit rows do: its
codes, one byte each, then float32 scale and float32 offset. One of int4 lies as those of
`embedding_bag_4bit_prepack` and FBGEMM's fused 4-bit rows do: codes two a byte, the first in the
low bits, then float16 scale and float16 offset. Number j is code[j] * scale + offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmlayers.dtypes import limits, numpy_dtype
from tvmlayers.errors import ConfigError, WeightsError
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
_ROWS_AT_A_TIME = 1 << 14  # of a table that may be as large as the memory


@dataclass(frozen=True)
class CodedRows:
    """How rows of codes lie. codes_a_byte; steps: the dtype of scale and offset behind the codes;
    most: the largest code."""

    codes_a_byte: int
    steps: str
    most: int

    @property
    def tail_bytes(self) -> int:
        """Of scale and offset."""
        return 2 * np.dtype(self.steps).itemsize

    def code_bytes(self, width: int) -> int:
        """Of the codes of a row of `width` numbers."""
        if width % self.codes_a_byte:
            raise ConfigError(
                f"a table as int4 has an even number of columns, two a byte; got {width}: keep it "
                "as int8, or add a column of zeros"
            )
        return width // self.codes_a_byte


CODED = {"int8": CodedRows(1, "<f4", 255), "int4": CodedRows(2, "<f2", 15)}


def row_bytes(width: int, kind: str) -> int:
    """Bytes of a row of `width` numbers; kind: as it is kept, any float dtype, "int8" or "int4"."""
    coded = CODED.get(kind)
    if coded is None:
        return width * numpy_dtype(kind).itemsize
    return coded.code_bytes(width) + coded.tail_bytes


def fused(codes: Array, scales: Array, offsets: Array, kind: str = "int8") -> Array:
    """Rows as they lie, (rows, row_bytes) uint8, out of codes (rows, width) uint8, scales and
    offsets (rows,)."""
    tail = np.stack([scales, offsets], axis=1).astype(CODED[kind].steps)
    if kind == "int4":
        codes = codes[:, ::2] | codes[:, 1::2] << 4
    return np.concatenate([codes, tail.view(np.uint8)], axis=1)


def parts(rows: Array, kind: str = "int8") -> tuple[Array, Array, Array]:
    """Codes, and float32 scales and offsets, out of such rows: the other way round."""
    coded = CODED[kind]
    codes = rows[..., : -coded.tail_bytes]
    if kind == "int4":
        pairs = np.stack([codes & 15, codes >> 4], axis=-1)
        codes = pairs.reshape(*codes.shape[:-1], -1)
    tail = np.ascontiguousarray(rows[..., -coded.tail_bytes :]).view(coded.steps)
    steps = tail.astype(np.float32)
    return codes, steps[..., 0], steps[..., 1]


def _specs(shape: tuple[int, int], kind: str) -> dict[str, tuple[tuple[int, ...], str]]:
    rows, width = shape
    if kind in CODED:
        return {TABLE: ((rows, row_bytes(width, kind)), "uint8")}
    return {TABLE: (shape, kind)}


def _hold(table: Array, kind: str, where: str) -> dict[str, Array]:
    if kind not in CODED:
        return {TABLE: as_half(table, kind, where)}
    rows, width = table.shape
    held = np.empty((rows, row_bytes(width, kind)), np.uint8)
    for start in range(0, rows, _ROWS_AT_A_TIME):
        part = table[start : start + _ROWS_AT_A_TIME].astype(np.float64)
        need_finite(part, where, kind, start)
        offsets, steps = _offsets_and_steps(part, kind)
        reach = CODED[kind].most * steps.astype(np.float64)
        wide = ~np.isfinite(offsets) | (reach > limits("float32").largest)
        if wide.any():
            reason = "float32 reaches" if kind == "int8" else "float16's scale or offset reaches"
            raise WeightsError(
                f"{where} has a row, {start + int(wide.argmax())}, whose numbers lie farther apart "
                f"than {reason}; keep the table as bfloat16, or scale it"
            )
        codes = codes_of(part - offsets.astype(np.float64), steps).astype(np.uint8)
        rows_held = fused(codes, steps[:, 0], offsets[:, 0], kind)
        held[start : start + _ROWS_AT_A_TIME] = rows_held
    return {TABLE: held}


def _offsets_and_steps(part: Array, kind: str) -> tuple[Array, Array]:
    """Offsets that are no larger than a row's least number, (rows, 1), and the least steps of which
    the largest code reaches as far as its largest."""
    least, largest = part.min(axis=1, keepdims=True), part.max(axis=1, keepdims=True)
    if kind == "int8":
        return least, steps_of(largest - least, CODED[kind].most)
    with np.errstate(over="ignore"):
        offsets = least.astype(np.float16)
        offsets = np.where(offsets > least, np.nextafter(offsets, np.float16(-np.inf)), offsets)
        return offsets, steps_of(largest - offsets, CODED[kind].most, np.float16)


def _check(held: Held, kind: str, where: str) -> None:
    if kind in CODED:
        _, scales, offsets = parts(held[TABLE], kind)
        wrong = ~(np.isfinite(scales) & np.isfinite(offsets))
        if wrong.any():
            steps = "float32" if kind == "int8" else "float16"
            raise WeightsError(
                f"{where} has a row, {int(wrong.argmax())}, whose scale or offset is not finite; "
                f"rows of {kind} end with both as {steps}"
            )


def _floats(held: Held, kind: str) -> Array:
    if kind not in CODED:
        return held[TABLE].astype(np.float64)
    codes, scales, offsets = parts(held[TABLE], kind)
    numbers: Array = codes * scales[..., None].astype(np.float64) + offsets[..., None]
    return numbers


def _errors(held: Held, kind: str) -> Array:
    if kind not in CODED:
        return half_errors(held[TABLE], kind)
    _, scales, _ = parts(held[TABLE], kind)
    return half_steps(scales[..., None])


def _bound(held: Held, kind: str) -> float:
    table = held[TABLE]
    errors = (
        _errors({TABLE: table[start : start + _ROWS_AT_A_TIME]}, kind)
        for start in range(0, len(table), _ROWS_AT_A_TIME)
    )
    return max(float(part.max(where=np.isfinite(part), initial=0.0)) for part in errors)


ROWS = Form(_specs, _hold, _check, _floats, _errors, _bound)
