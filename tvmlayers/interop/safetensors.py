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

_ENDS = ("_scale", "_scale_inv", "_scales")  # behind a weight's name
_OWN, _SIBLINGS = ".weight", (".scale", ".scales")  # in the place of its last part
_ZEROS = "_zero_point"
_USUAL_STEP = 128  # of blocks, the last one of which may be shorter


def read_scaled(path: str | os.PathLike[str]) -> dict[str, FileWeight]:
    """As `weights.read_weights`."""
    try:
        arrays, _ = read(Path(path))
    except WeightsError as error:
        raise ModelImportError(str(error)) from error
    beside = {found for name in arrays for found in (_scales_of(name, arrays), name + _ZEROS)}
    return {
        name: FileWeight(name, array.shape, array.dtype.name, partial(_scaled, name, arrays))
        for name, array in arrays.items()
        if name not in beside
    }


def _scales_of(name: str, arrays: Mapping[str, Array]) -> str:
    """The name of the scales of an array; "" where it has none."""
    stem = name.removesuffix(_OWN)
    names = [name + end for end in _ENDS]
    if stem != name:
        names += [stem + end for end in _SIBLINGS]
    return next((each for each in names if each in arrays), "")


def _scaled(name: str, arrays: Mapping[str, Array]) -> Blocks | Array:
    """The array, its codes of int8 with scales, or the numbers of float8 times theirs."""
    array, of_scales = arrays[name], _scales_of(name, arrays)
    kind = array.dtype.name
    if kind != "int8" and not kind.startswith("float8"):
        return array
    if kind == "int8" and not of_scales:
        raise ModelImportError(
            f"{name!r} is int8 and has no scale: {name}_scale is not in the file"
        )
    if np.any(arrays.get(name + _ZEROS, 0)):
        raise ModelImportError(f"{name!r} has zero points other than 0, which are not read")
    given = arrays[of_scales] if of_scales else np.ones(())
    scales, step = _of_outputs(name, array.shape, given.astype(np.float32))
    if kind == "int8" and array.ndim == 2:
        return Blocks(8, array, scales, step)
    if step:
        scales = scales.repeat(step, 1)[:, : array.shape[1]]
    elif array.ndim != 2:
        scales = scales.reshape((-1, *(1,) * (array.ndim - 1))[: array.ndim])
    made: Array = array.astype(np.float32) * scales
    if kind != "int8" and (np.frexp(np.abs(scales))[0] == 0.5).all():  # powers of two are exact
        return _as_bfloat16(made)
    return made


def _as_bfloat16(numbers: Array) -> Array:
    import ml_dtypes

    short = numbers.astype(ml_dtypes.bfloat16)
    same = short.astype(np.float32) == numbers
    return short if (same | np.isnan(numbers)).all() else numbers


def _of_outputs(name: str, shape: tuple[int, ...], scales: Array) -> tuple[Array, int]:
    """Scales (outputs, groups), and how many inputs a group has, 0 for all."""
    outputs = shape[0] if shape else 1
    if scales.size == 1:
        return np.broadcast_to(scales.reshape(1, 1), (outputs, 1)), 0
    if len(shape) == scales.ndim == 2:
        rows, step = (_step(size, count) for size, count in zip(shape, scales.shape, strict=True))
        if rows and step:
            return scales.repeat(rows, 0)[:outputs], step if step < shape[1] else 0
    elif scales.size == scales.shape[0] == outputs:
        return scales.reshape(outputs, 1), 0
    raise ModelImportError(f"the scales of {name!r} {shape} have the shape {scales.shape}")


def _step(size: int, count: int) -> int:
    """How many numbers along an axis share a scale; 0 where that is not said by so many."""
    if -(-size // _USUAL_STEP) == count:
        return _USUAL_STEP
    return size // count if count and size % count == 0 else 0
