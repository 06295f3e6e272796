"""float32 weights as sums of three bfloat16 (the bf16x3 split), in the tiles that AMX takes.

Pure NumPy; `codegen.cpu.amx_split` says why three, and writes the same tiles at run time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PARTS = 3
STEP, LANES = 32, 16  # steps of k and columns of a tile
PAIRS = STEP // 2  # of steps, each with the one so many later
TILE_BYTES = 1024
_HIGH_BITS, _HALF_BIT = np.uint32(0xFFFF0000), np.uint32(0x8000)


def parts_bytes(k: int, columns: int) -> int:
    """What the parts of W (k, columns) take; columns: a multiple of 16."""
    return -(-k // STEP) * (columns // LANES) * PARTS * TILE_BYTES


def write_parts(kernel: NDArray[np.float32], columns: int, out: NDArray[Any]) -> None:
    """The parts of `kernel` (k, n), with zeros up to `columns`, into `out`, of `parts_bytes`.

    Strip by strip of 16 columns; in a strip tile by tile of 32 steps of k, once for each part, high
    to low; in a tile pair by pair of steps, 16 apart, which lie side by side for each column.
    """
    k, n = kernel.shape
    tiles, strips = -(-k // STEP), columns // LANES
    left = np.zeros((tiles * STEP, columns), np.float32)
    left[:k, :n] = kernel
    shape = (strips, tiles, PARTS, PAIRS, LANES, 2)
    placed = out.view(np.uint16).reshape(shape)
    for part in range(PARTS):
        bits = left.view(np.uint32)
        if part < PARTS - 1:
            bits = (bits + _HALF_BIT) & _HIGH_BITS
            with np.errstate(invalid="ignore", over="ignore"):  # an infinity has no parts
                left = left - bits.view(np.float32)
        upper = (bits >> np.uint32(16)).astype(np.uint16)
        halves = upper.reshape(tiles, 2, PAIRS, strips, LANES)
        placed[:, :, part] = halves.transpose(3, 0, 2, 4, 1)
