"""Dense kernels in fewer bits: halves, or whole numbers with a scale for each output column.

A column of an int8 or int4 kernel may also have a scale for each group of steps of k, the last of
which may be shorter. The number at (i, j) is code[i, j] * scale[j], or scale[i // group, j]. An
int8's codes are -127..127 where they are made here; kernels from elsewhere may have -128. An int4's
are -8..7, its scale may be negative, and the largest magnitude of a group is code -8 (as in GGML's
Q4_0): what lies as far on the other side is cut off by a step at most. int4 codes come two a byte:
of columns 2j and 2j + 1, each 8 larger, the first in the low bits.
"""

from __future__ import annotations

import numpy as np

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
from tvmlayers.quantization.kinds import Kind

KERNEL, SCALES = "kernel", "scales"
_MOST = {"int8": 127, "int4": 8}  # steps from zero to a group's largest magnitude
_OFFSET, _LARGEST = 8, 7  # of int4's codes


def pack_pairs(codes: Array) -> Array:
    """int4 codes (k, n) two a byte, (k, ceil(n / 2)) uint8."""
    padded = np.zeros((codes.shape[0], -(-codes.shape[1] // 2) * 2), np.uint8)
    padded[:, : codes.shape[1]] = codes + _OFFSET
    pairs: Array = padded[:, ::2] | padded[:, 1::2] << 4
    return pairs


def codes(held: Held, kind: str) -> Array:
    """The codes of a kernel, (k, n) int8."""
    kernel = held[KERNEL]
    if Kind.of(kind).base == "int8":
        return kernel
    pairs = np.stack([kernel & 15, kernel >> 4], axis=-1).reshape(len(kernel), -1)
    return (pairs[:, : held[SCALES].shape[-1]].astype(np.int8) - _OFFSET).astype(np.int8)


def grouped(scales: Array, kind: str, k: int) -> Array:
    """The scales of a kernel of k steps for each step, broadcast over (k, n)."""
    group = Kind.of(kind).group
    return scales[np.arange(k) // group] if group else scales[None, :]


def _specs(shape: tuple[int, int], kind: str) -> dict[str, tuple[tuple[int, ...], str]]:
    known, (k, n) = Kind.of(kind), shape
    if not known.is_codes:
        return {KERNEL: (shape, kind)}
    scales = (known.groups(k), n) if known.group else (n,)
    kernel = (shape, "int8") if known.base == "int8" else ((k, -(-n // 2)), "uint8")
    return {KERNEL: kernel, SCALES: (scales, "float32")}


def _hold(kernel: Array, kind: str, where: str) -> dict[str, Array]:
    known, k = Kind.of(kind), len(kernel)
    if not known.is_codes:
        return {KERNEL: as_half(kernel, kind, where)}
    need_finite(kernel, where, known.base)
    starts = range(0, k, known.group or k)
    steps = np.stack([_steps(kernel[i : i + (known.group or k)], known.base) for i in starts])
    scales = steps if known.group else steps[0]
    made = codes_of(kernel, grouped(scales, kind, k))
    if known.base == "int8":
        return {KERNEL: made.astype(np.int8), SCALES: scales}
    return {KERNEL: pack_pairs(np.minimum(made, _LARGEST).astype(np.int8)), SCALES: scales}


def _steps(group: Array, base: str) -> Array:
    """The step of each column of some rows of a kernel."""
    sizes = np.abs(group)
    steps = steps_of(sizes.max(axis=0).astype(np.float64), _MOST[base])
    if base == "int8":
        return steps
    largest = np.take_along_axis(group, sizes.argmax(axis=0)[None], axis=0)[0]
    return np.where(largest > 0, -steps, steps)


def _check(held: Held, kind: str, where: str) -> None:
    if SCALES in held:
        wrong = ~np.isfinite(held[SCALES])
        if wrong.any():
            at = tuple(map(int, np.argwhere(wrong)[0]))
            place = at[0] if len(at) == 1 else at
            raise WeightsError(f"{where} has a scale, {place}, that is not finite")


def _floats(held: Held, kind: str) -> Array:
    if SCALES not in held:
        return held[KERNEL].astype(np.float64)
    made = codes(held, kind)
    numbers: Array = made * grouped(held[SCALES], kind, len(made)).astype(np.float64)
    return numbers


def _errors(held: Held, kind: str) -> Array:
    if SCALES not in held:
        return half_errors(held[KERNEL], kind)
    errors = half_steps(grouped(held[SCALES], kind, len(held[KERNEL])))
    if Kind.of(kind).base == "int8":
        return errors
    return errors * np.where(codes(held, kind) == _LARGEST, 2, 1)


def _bound(held: Held, kind: str) -> float:
    errors = _errors(held, kind)
    finite = np.where(np.isfinite(errors), errors, 0.0)
    whole = np.broadcast_to(finite, (len(held[KERNEL]), finite.shape[1]))
    return float(np.sqrt(np.square(whole).sum(axis=0)).max())


COLUMNS = Form(_specs, _hold, _check, _floats, _errors, _bound)
