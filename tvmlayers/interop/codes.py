"""Kernels and tables that come as whole numbers with scales, and how layers keep them.

A Dense keeps codes around zero with a scale for each column, or for each 32, 64 or 128 steps of
one; an Embedding keeps codes with a scale and an offset for each row. What has another form is
brought into float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvmlayers.quantization import Kind
from tvmlayers.quantization.columns import pack_pairs
from tvmlayers.quantization.kinds import GROUPS
from tvmlayers.quantization.rows import fused

Array: TypeAlias = NDArray[Any]
Held: TypeAlias = tuple[str, list[Array]]
"""The kind of a weight, and the arrays that it is kept as."""

_RANGES = {"int8": (-128, 127), "int4": (-8, 7)}
BASES = tuple(_RANGES)


@dataclass(frozen=True)
class Codes:
    """A kernel (k, n): codes times scales (groups, n), a group of `group` steps of k, 0 for all.

    base: "int8" or "int4", what the codes came as.
    """

    base: str
    codes: Array
    scales: Array
    group: int = 0

    def held(self) -> Held:
        """As a Dense keeps them; the float32 numbers where it has no such kind."""
        least, most = _RANGES[self.base]
        is_kept = self.group in (0, *GROUPS)
        if is_kept and self.codes.min() >= least and self.codes.max() <= most:
            codes = self.codes.astype(np.int8)
            kind = Kind(self.base, self.group)
            kernel = codes if self.base == "int8" else pack_pairs(codes)
            return kind.name, [kernel, self.scales if self.group else self.scales[0]]
        steps = np.arange(len(self.codes)) // (self.group or len(self.codes))
        return "float32", [(self.codes.astype(np.float32) * self.scales[steps])]


@dataclass(frozen=True)
class Rows:
    """A table (rows, columns): codes, and zero points and scales of each block of a row, which has
    `block` columns, 0 for all."""

    bits: int
    codes: Array
    zeros: Array
    scales: Array
    block: int

    def floats(self) -> Array:
        """The numbers that the codes stand for, each rounded once."""
        places = np.arange(self.codes.shape[1]) // (self.block or self.codes.shape[1])
        made: Array = (self.codes - self.zeros[:, places]).astype(np.float32)
        made *= self.scales[:, places]
        return made

    def held(self) -> Held:
        """As an Embedding keeps them, float32 numbers where a row has several scales."""
        codes, zeros, scales = self.codes, self.zeros, self.scales
        if scales.shape[1] > 1:
            return "float32", [self.floats()]
        least = min(int(codes.min()), 0)
        steps = scales[:, 0]
        offsets = ((least - zeros[:, 0]) * steps).astype(np.float32)
        return fused_rows(self.bits, (codes - least).astype(np.uint8), steps, offsets)


def fused_rows(bits: int, codes: Array, steps: Array, offsets: Array) -> Held:
    """Rows code * step + offset as an Embedding keeps them, in 4 bits only where float16 has the
    steps and offsets."""
    tail = np.stack([steps, offsets])
    is_short = bits == 4 and codes.shape[1] % 2 == 0
    with np.errstate(over="ignore"):
        is_short = is_short and bool((tail.astype(np.float16) == tail).all())
    kind = "int4" if is_short else "int8"
    return kind, [fused(codes, steps, offsets, kind)]


def unpacked(rows: Array, bits: int) -> Array:
    """Numbers of 4 bits of rows of bytes, the low ones first, or of 8."""
    if bits == 8:
        return rows.astype(np.int16)
    pairs: Array = np.stack([rows & 15, rows >> 4], axis=-1).reshape(len(rows), -1)
    return pairs.astype(np.int16)
