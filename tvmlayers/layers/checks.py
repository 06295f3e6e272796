"""Checks that a layer's specification makes once, when the layer is made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tvmlayers.dtypes import FLOAT_DTYPES, HALF_DTYPES, MIXED, numpy_dtype
from tvmlayers.errors import ConfigError, DTypeError, unknown_name
from tvmlayers.numeric import not_negative

INDEX_DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")

Name = TypeVar("Name", bound=str)


def checked_seed(owner: str, seed: object) -> int | None:
    """seed, None or a whole number from 0 up."""
    return None if seed is None else not_negative(owner, "a seed", seed)


def axis_in(owner: str, axis: int, rank: int) -> int:
    """axis counted from the front of a tensor of this rank; never the batch axis."""
    resolved = axis + rank if axis < 0 else axis
    if not 1 <= resolved < rank:
        raise ConfigError(
            f"{owner} cannot work on axis {axis} of a tensor of rank {rank}; "
            f"use an axis in 1..{rank - 1} or its negative form (axis 0 is the batch)"
        )
    return resolved


def dtype_name(dtype: object) -> str:
    """The plain name of a dtype: np.float32, torch.float32 and "float32" give "float32"."""
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    return str(name).removeprefix("torch.")


def float_dtype(owner: str, dtype: object) -> str:
    """One of FLOAT_DTYPES; DTypeError for every other dtype."""
    name = dtype_name(dtype)
    if name not in FLOAT_DTYPES:
        *others, last = FLOAT_DTYPES
        raise DTypeError(f"{owner} expected dtype {', '.join(others)} or {last}, got {name}")
    numpy_dtype(name)  # NumPy knows bfloat16 by name from then on
    return name


def dtype_policy(owner: str, dtype: object) -> tuple[str, str]:
    """(dtype that a layer computes in, that it keeps its weights in) of one of FLOAT_DTYPES, which
    are the same then, or of "mixed_bfloat16" or "mixed_float16"; DTypeError for all others."""
    name = dtype_name(dtype)
    half = name.removeprefix(MIXED)
    if name != half and half in HALF_DTYPES:
        return float_dtype(owner, half), "float32"
    return (float_dtype(owner, dtype),) * 2


def index_dtype(owner: str, dtype: object) -> str:
    """The name of an integer dtype that indices can have; DTypeError otherwise."""
    name = dtype_name(dtype)
    if name not in INDEX_DTYPES:
        raise DTypeError(
            f"{owner} expected integers ({', '.join(INDEX_DTYPES)}), got {name}; cast the "
            f'indices, or make their Input with dtype="int64"'
        )
    return name


def one_of(kind: str, got: object, known: Iterable[Name]) -> Name:
    """The known name that equals got; UnknownNameError names the nearest."""
    names = tuple(known)
    for name in names:
        if got == name:
            return name
    raise unknown_name(kind, got, names)
