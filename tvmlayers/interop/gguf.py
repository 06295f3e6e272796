"""Matrices of a GGUF file, by the package `gguf`."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tvmlayers.errors import MissingDependencyError, ModelImportError
from tvmlayers.interop.codes import Array, unpacked
from tvmlayers.interop.weights import Blocks, FileWeight

_GROUP, _SCALE_BYTES = 32, 2  # of Q8_0 and Q4_0: a float16 scale, then the codes


def read_gguf(path: str | os.PathLike[str]) -> dict[str, FileWeight]:
    """As `weights.read_weights`."""
    try:
        import gguf
    except ImportError as error:
        raise MissingDependencyError(
            "reading GGUF needs the package gguf: pip install 'tvmlayers[gguf]'"
        ) from error
    try:
        tensors = gguf.GGUFReader(path).tensors
    except Exception as error:  # the reader meets damage wherever it reads
        raise ModelImportError(f"{path} is no GGUF file, or a damaged one: {error}") from error
    made = {}
    for tensor in tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        kind = tensor.tensor_type.name
        reader = _READ.get(kind, _dequantised)
        made[tensor.name] = FileWeight(tensor.name, shape, kind, partial(reader, tensor, shape))
    return made


def _floats(tensor: Any, shape: tuple[int, ...]) -> Array:
    return np.array(tensor.data).reshape(shape)


def _bfloat16(tensor: Any, shape: tuple[int, ...]) -> Array:
    import ml_dtypes

    made: Array = np.ascontiguousarray(tensor.data).view(ml_dtypes.bfloat16)
    return made.reshape(shape)


def _dequantised(tensor: Any, shape: tuple[int, ...]) -> Array:
    from gguf.quants import dequantize

    try:
        return np.asarray(dequantize(tensor.data, tensor.tensor_type)).reshape(shape)
    except (KeyError, NotImplementedError) as error:
        kind = tensor.tensor_type.name
        raise ModelImportError(f"{tensor.name!r} is {kind}, which gguf cannot read") from error


def _blocks(bits: int, tensor: Any, shape: tuple[int, ...]) -> Blocks:
    outputs, inputs = shape[0], shape[-1]
    if len(shape) != 2:
        raise ModelImportError(f"{tensor.name!r} expected a matrix, got shape {shape}")
    of_block = _SCALE_BYTES + _GROUP * bits // 8
    blocks = np.asarray(tensor.data).reshape(outputs, inputs // _GROUP, of_block)
    scales = np.ascontiguousarray(blocks[..., :_SCALE_BYTES]).view(np.float16)[..., 0]
    packed = blocks[..., _SCALE_BYTES:]
    codes: Array
    if bits == 8:
        codes = np.ascontiguousarray(packed).view(np.int8)
    else:  # the low halves of a block's bytes come first
        pairs = unpacked(packed.reshape(-1, _GROUP // 2), 4).reshape(-1, _GROUP // 2, 2)
        codes = pairs.transpose(0, 2, 1) - np.int16(8)
    return Blocks(bits, codes.reshape(shape), scales.astype(np.float32), _GROUP)


_READ: dict[str, Callable[[Any, tuple[int, ...]], Blocks | Array]] = {
    "F32": _floats,
    "F16": _floats,
    "BF16": _bfloat16,
    "Q8_0": partial(_blocks, 8),
    "Q4_0": partial(_blocks, 4),
}
