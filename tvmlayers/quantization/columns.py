"""Dense kernels in fewer bits: halves, or whole numbers with a scale for each output column.

Column j of an int8 kernel is code[:, j] * scale[j], codes from -127 to 127.
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

KERNEL, SCALES = "kernel", "scales"
_MOST = 127


def _specs(shape: tuple[int, int], kind: str) -> dict[str, tuple[tuple[int, ...], str]]:
    if kind == "int8":
        return {KERNEL: (shape, "int8"), SCALES: ((shape[1],), "float32")}
    return {KERNEL: (shape, kind)}


def _hold(kernel: Array, kind: str, where: str) -> dict[str, Array]:
    if kind != "int8":
        return {KERNEL: as_half(kernel, kind, where)}
    need_finite(kernel, where)
    steps = steps_of(np.abs(kernel).max(axis=0).astype(np.float64), _MOST)
    return {KERNEL: codes_of(kernel, steps).astype(np.int8), SCALES: steps}


def _check(held: Held, kind: str, where: str) -> None:
    if SCALES in held:
        wrong = ~np.isfinite(held[SCALES])
        if wrong.any():
            raise WeightsError(f"{where} has a scale, {int(wrong.argmax())}, that is not finite")


def _floats(held: Held, kind: str) -> Array:
    numbers = held[KERNEL].astype(np.float64)
    return numbers * held[SCALES].astype(np.float64) if kind == "int8" else numbers


def _errors(held: Held, kind: str) -> Array:
    if kind == "int8":
        return half_steps(held[SCALES][None, :])
    return half_errors(held[KERNEL], kind)


def _bound(held: Held, kind: str) -> float:
    errors = _errors(held, kind)
    finite = np.where(np.isfinite(errors), errors, 0.0)
    whole = np.broadcast_to(finite, held[KERNEL].shape)
    return float(np.sqrt(np.square(whole).sum(axis=0)).max())


COLUMNS = Form(_specs, _hold, _check, _floats, _errors, _bound)
