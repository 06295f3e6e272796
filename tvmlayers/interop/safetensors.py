"""Matrices of a safetensors file, int8 and float8 with their scales."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from tvmlayers.errors import ModelImportError, WeightsError
from tvmlayers.interop.codes import Array
from tvmlayers.interop.weights import Blocks, FileWeight
from tvmlayers.safetensors_file import read

_SCALES = ("_scale", "_scale_inv")  # behind a weight's name
_USUAL_STEP = 128  # of blocks, the last one of which may be shorter


def read_scaled(path: str | os.PathLike[str]) -> dict[str, FileWeight]:
    """As `weights.read_weights`."""
    try:
        arrays, _ = read(Path(path))
    except WeightsError as error:
        raise ModelImportError(str(error)) from error
    made = {}
    for name, array in arrays.items():
        is_scale = any(name.removesuffix(end) in arrays for end in _SCALES if name.endswith(end))
        if not is_scale:
            read_it = partial(_scaled, name, array, _scales_of(name, arrays))
            made[name] = FileWeight(name, array.shape, array.dtype.name, read_it)
    return made


def _scales_of(name: str, arrays: Mapping[str, Array]) -> Array | None:
    return next((arrays[name + end] for end in _SCALES if name + end in arrays), None)


def _scaled(name: str, array: Array, scales: Array | None) -> Blocks | Array:
    """The array, or its codes with one scale an output; others are multiplied with their scales."""
    kind = array.dtype.name
    if kind != "int8" and not kind.startswith("float8"):
        return array
    if scales is None:
        if kind == "int8":
            raise ModelImportError(
                f"{name!r} is int8 and has no scale: {name}_scale is not in the file"
            )
        scales = np.ones((), np.float32)
    wide = _of_outputs(name, array.shape, scales.astype(np.float32))
    if kind == "int8" and wide.shape[1] == 1 and array.ndim == 2:
        return Blocks(8, array, wide)
    if kind != "int8" and (np.frexp(np.abs(wide))[0] == 0.5).all():  # powers of two are exact
        return _as_bfloat16(array.astype(np.float32) * wide)
    return array.astype(np.float32) * wide


def _as_bfloat16(numbers: Array) -> Array:
    import ml_dtypes

    short = numbers.astype(ml_dtypes.bfloat16)
    same = short.astype(np.float32) == numbers
    return short if (same | np.isnan(numbers)).all() else numbers


def _of_outputs(name: str, shape: tuple[int, ...], scales: Array) -> Array:
    """Scales (outputs, 1), or (outputs, inputs) where those of one output differ."""
    outputs = shape[0] if shape else 1
    if scales.size == 1:
        return np.broadcast_to(scales.reshape(1, 1), (outputs, 1))
    if scales.size == outputs:
        return scales.reshape(outputs, 1)
    if len(shape) == scales.ndim == 2:
        steps = [_step(size, count) for size, count in zip(shape, scales.shape, strict=True)]
        if all(steps):
            wide = scales.repeat(steps[0], 0).repeat(steps[1], 1)
            return wide[: shape[0], : shape[1]]
    raise ModelImportError(f"the scales of {name!r} {shape} have the shape {scales.shape}")


def _step(size: int, count: int) -> int:
    """How many numbers along an axis share a scale; 0 where that is not said by so many."""
    if -(-size // _USUAL_STEP) == count:
        return _USUAL_STEP
    return size // count if count and size % count == 0 else 0
