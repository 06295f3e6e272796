"""One block of memory for the packed weights of a compiled model."""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers.dtypes import numpy_dtype
from tvmlayers.errors import HostMemoryError

ALIGNMENT = 128  # bytes: a pair of cache lines, as the second-level cache reads memory
HUGE_PAGE = 2 << 20
HUGE_PAGES_FROM = 4 << 20  # bytes; below this the pages saved are not worth the rounding


def allocate_arena(nbytes: int) -> NDArray[np.uint8]:
    """Zeroed uint8[nbytes] that starts at a multiple of 2 MiB and asks for huge pages,
    where there are any.

    A random row of a big table costs a page walk; with 2 MiB pages most of the walks hit
    the caches. The memory is private, so a forked worker shares it until it writes.
    HostMemoryError where there is not so much.
    """
    huge = nbytes >= HUGE_PAGES_FROM
    alignment = HUGE_PAGE if huge else mmap.PAGESIZE
    try:
        block = mmap.mmap(-1, nbytes + alignment, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError, ValueError) as error:
        raise HostMemoryError(
            f"{nbytes:,} bytes of memory are needed, and the system refuses them ({error}); free "
            "some, raise the limit of this process, or use a smaller model or batch"
        ) from error
    array: NDArray[np.uint8] = np.frombuffer(block, dtype=np.uint8)
    start = -address(array) % alignment
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # advice: a kernel without transparent huge pages refuses it
            block.madvise(mmap.MADV_HUGEPAGE, start, nbytes)
    return array[start : start + nbytes]


def address(array: NDArray[Any]) -> int:
    """Where the first element of `array` is."""
    return int(array.__array_interface__["data"][0])


def view(arena: NDArray[np.uint8], offset: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """The tensor of `shape` and `dtype` that begins `offset` bytes into `arena`, not copied."""
    return np.ndarray(shape, numpy_dtype(dtype), buffer=arena.data, offset=offset)
