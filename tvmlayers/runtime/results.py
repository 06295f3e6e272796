"""Memory for results, used again once the caller has let go of them.

Fresh memory of more than a few pages costs a page fault for each page at its first touch, which is
more than a lookup takes to fill it.
"""

from __future__ import annotations

import sys
from collections import deque
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers.artifact.arena import address

Array = NDArray[Any]

CACHE_LINE = 64
# Below this many bytes malloc's own free lists are faster.
REUSE_FROM = 32 << 10
MOST_BLOCKS = 4
MOST_KEPT = 128 << 20  # bytes of the largest block that is kept

# References to a block that nothing else holds: its entry's, `_fits`'s own and getrefcount's.
_UNUSED = 3

# Without the interpreter lock, reference counts say nothing about other threads.
_COUNTS = getattr(sys, "_is_gil_enabled", lambda: True)()

# (bytes, where in them the first cache line begins, how many there are from there on)
_Block = tuple[Array, int, int]


class ResultPool:
    """A few blocks of memory that results were made in.

    Every view of a result holds its block, so a block that only the pool holds is free. Blocks are
    popped before they are looked at: no two threads can take the same one.
    """

    def __init__(self) -> None:
        self._blocks: deque[_Block] = deque(maxlen=MOST_BLOCKS)

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> Array:
        """An uninitialised array of `shape` that starts at a cache line."""
        blocks = self._blocks
        try:
            # The last one used comes first: its memory is still in the caches.
            for _ in range(len(blocks)):
                entry = blocks.pop()
                if _fits(entry, nbytes):
                    break
                blocks.appendleft(entry)
            else:
                entry = _new_block(nbytes)
        except IndexError:  # another thread has the last one
            entry = _new_block(nbytes)
        result: Array = np.ndarray(shape, dtype, entry[0], entry[1])
        if nbytes <= MOST_KEPT:
            blocks.append(entry)
        return result


def _fits(entry: _Block, nbytes: int) -> bool:
    """Whether a block is free, large enough and not much too large."""
    block, _, usable = entry
    return nbytes <= usable <= 4 * nbytes and sys.getrefcount(block) == _UNUSED


def _new_block(nbytes: int) -> _Block:
    block = np.empty(nbytes + CACHE_LINE, np.uint8)
    return block, -address(block) % CACHE_LINE, nbytes


_pool = ResultPool()
take = _pool.take if _COUNTS else lambda shape, dtype, _nbytes: np.empty(shape, dtype)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialised array for a result; a large one starts at a cache line.

    One without elements has the strides that its shape asks for: NumPy leaves them zero, and
    compiled code takes that for an array that is not packed.
    """
    nbytes = dtype.itemsize * prod(shape)
    if nbytes == 0:
        strides = [dtype.itemsize * prod(shape[axis + 1 :]) for axis in range(len(shape))]
        room = max(strides, default=0) + dtype.itemsize
        return np.ndarray(shape, dtype, np.empty(room, np.uint8), 0, strides)
    return np.empty(shape, dtype) if nbytes < REUSE_FROM else take(shape, dtype, nbytes)
