"""Arrays as the bytes of a safetensors file, and read from one."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers.errors import ConfigError, WeightsError

DTYPES = {  # NumPy's names and those of safetensors
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
}

_FLOAT8 = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}  # those of ml_dtypes


def chunks(
    arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """The bytes of a file of `arrays` in their order, piece by piece: 8 bytes of length, header,
    tensors. ConfigError for a name that JSON cannot hold.

    Format: https://huggingface.co/docs/safetensors, "Format".
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        dtype = DTYPES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{error.object[max(error.start - 20, 0) : error.end]!r} cannot be saved: the name of "
            "a layer has a lone surrogate, which is no character; rename the layer"
        ) from error
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for array in arrays.values():
        if array.nbytes:
            yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def read(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Arrays and metadata of a safetensors file; WeightsError when it is damaged."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(str(path), framework="numpy") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            arrays = {
                name: file.get_tensor(name) if kind not in _FLOAT8 else _float8(path, name, kind)
                for name, kind in kinds.items()
            }
            return arrays, file.metadata() or {}
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path} is no safetensors file, or a damaged one: {error}") from error


def _float8(path: str | Path, name: str, kind: str) -> NDArray[Any]:
    """A tensor of a file that was checked, of a dtype that NumPy lacks."""
    import ml_dtypes

    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        about = json.loads(file.read(length))[name]
        begin, end = about["data_offsets"]
        file.seek(8 + length + begin)
        data = file.read(end - begin)
    return np.frombuffer(data, getattr(ml_dtypes, _FLOAT8[kind])).reshape(about["shape"])
