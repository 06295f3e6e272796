"""Runs compiled models on arrays whose first or last byte lies at memory that may not be touched.

A program of its own, as a read past the end kills the process: `python guarded.py TARGET`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from itertools import product
from math import prod

import numpy as np
from agreement import Array
from samples import every_input, every_kernel

import tvmlayers as tl

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
KEPT: list[object] = []  # mappings must outlive the arrays in them


def guarded(shape: tuple[int, ...], dtype: object, at_end: bool) -> Array:
    """An array between two pages without any rights, against the one behind it or before it."""
    nbytes = prod(shape) * np.dtype(dtype).itemsize
    room = -(-max(nbytes, 1) // PAGE) * PAGE
    block = mmap.mmap(-1, room + 2 * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(block))
    for place in (start, start + PAGE + room):
        if LIBC.mprotect(ctypes.c_void_p(place), PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = PAGE + (room - nbytes if at_end else 0)
    KEPT.append(block)
    return np.ndarray(shape, dtype, buffer=block, offset=offset)


def copied(array: Array, at_end: bool) -> Array:
    made = guarded(array.shape, array.dtype, at_end)
    made[...] = array
    return made


def check(compiled: tl.Compiled, inputs: tuple[Array, ...]) -> None:
    """Inputs and outputs at both kinds of edges give what ordinary arrays give."""
    wanted = compiled(*inputs)
    wanted = wanted if isinstance(wanted, list) else [wanted]
    for at_end in (False, True):
        given = [copied(array, at_end) for array in inputs]
        out = [guarded(array.shape, array.dtype, at_end) for array in wanted]
        compiled(*given, out=out if len(out) > 1 else out[0])
        for array, want in zip(out, wanted, strict=True):
            np.testing.assert_array_equal(array, want)


def main(target: str) -> None:
    for dtype in ("float32", "float64"):
        compiled = tl.compile(every_kernel(dtype), target)
        for threads, batch in product((1, 2), (1, 2, 3, 5, 6, 13, 64, 333)):
            compiled.threads = threads
            ids, x = every_input(batch, dtype)
            check(compiled, (ids, x))
            check(compiled, (ids.astype(np.int32), x))
    bag = tl.compile(tl.EmbeddingBag(97, 16, mode="sum"), target)
    ids, offsets = np.arange(97), np.array([0, 1, 1, 30, 96])
    for dtype in (np.int32, np.int64):
        check(bag, (ids.astype(dtype), offsets.astype(dtype), np.ones(97, np.float32)))
    print("untouched", flush=True)
    os._exit(0)  # the mappings cannot be closed while arrays lie in them


if __name__ == "__main__":
    main(sys.argv[1])
