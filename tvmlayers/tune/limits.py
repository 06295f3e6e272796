"""The most that this machine does: multiply-adds in registers, and bytes from memory, a second."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tvm
from tvm.script import tirx as T

from tvmlayers import _ffi, targets
from tvmlayers.arena import allocate_arena

TRIES = 9
PAUSE_SECONDS = 0.004
CHAINS = 12
READ_CHAINS, READ_STREAMS = 8, 4  # vectors of a step; parts of the data that are read at a time
PREFETCH_STEPS = (0, 2, 4)
ROUNDS = 1 << 18
LEAST_BYTES, MOST_BYTES = 1 << 18, 256 << 20
# What a try reads, over and over where the data is smaller.
TRY_BYTES = 64 << 20
# What makes TVM leave a small local buffer to LLVM, which then keeps it in registers.
IN_REGISTERS = {"disable_lower_builtin": 1}


def measure(dtype: str, threads: int, held: int) -> dict[str, float]:
    """{"flops": of `dtype`, "bytes": read of data that holds `held`} a second on `threads`."""
    target = targets.native()
    lanes = target.lanes(dtype)
    size = np.dtype(dtype).itemsize
    flops = 2 * CHAINS * lanes * threads * ROUNDS
    factor = _ffi.from_array(np.full(lanes, 0.5, dtype))
    sums = _ffi.from_array(np.zeros((threads, CHAINS * lanes), dtype))
    multiply = _build(fma_chains, lanes, dtype, size, target)
    most = flops / _best(lambda: multiply(factor, sums, ROUNDS, threads))
    return {"flops": most, "bytes": _read(target, dtype, threads, held)}


def _read(target: targets.Target, dtype: str, threads: int, held: int) -> float:
    """Bytes a second, at the prefetch distance that is best here."""
    lanes, size = target.lanes(dtype), np.dtype(dtype).itemsize
    step_bytes = READ_STREAMS * READ_CHAINS * lanes * size * threads
    steps = max(1, min(max(held, LEAST_BYTES), MOST_BYTES) // step_bytes)
    data = allocate_arena(steps * step_bytes)
    repeats = max(1, TRY_BYTES // data.nbytes)
    data[:] = 0  # touched: pages that were never written share one page of zeros
    shape = threads, READ_STREAMS, steps, READ_CHAINS * lanes
    rows = _ffi.from_array(data.view(dtype).reshape(shape))
    sums = _ffi.from_array(np.zeros((threads, READ_CHAINS * lanes), dtype))
    read = _build(streams, lanes, dtype, size, target)
    seconds = min(
        _best(partial(read, rows, sums, ahead, repeats, threads)) for ahead in PREFETCH_STEPS
    )
    return data.nbytes * repeats / seconds


def fma_chains(lanes: int, dtype: str, size: int) -> Any:
    """`rounds` x CHAINS independent multiply-adds of a vector on each thread."""
    vector, width = f"{dtype}x{lanes}", CHAINS * lanes

    @T.prim_func(s_tir=True)
    def kernel(a: T.handle, s: T.handle, rounds: T.int64, threads: T.int32):
        T.func_attr({"global_symbol": "kernel", "tirx.noalias": True})
        tasks = T.int64()
        factor = T.match_buffer(a, (lanes,), dtype, align=size)
        sums = T.match_buffer(s, (tasks, width), dtype, align=size)
        for t in T.parallel(threads):
            acc = T.alloc_buffer((width,), dtype, scope="local", annotations=IN_REGISTERS)
            x: T.let = factor[T.ramp(0, 1, lanes)]
            for c in T.unroll(CHAINS):
                acc[T.ramp(c * lanes, 1, lanes)] = x
            for _ in range(rounds):
                for c in T.unroll(CHAINS):
                    acc[T.ramp(c * lanes, 1, lanes)] = T.call_llvm_pure_intrin(
                        vector, "llvm.fma", acc[T.ramp(c * lanes, 1, lanes)], x, x
                    )
            for c in T.unroll(CHAINS):
                sums[t, T.ramp(c * lanes, 1, lanes)] = acc[T.ramp(c * lanes, 1, lanes)]

    return kernel


def streams(lanes: int, dtype: str, size: int) -> Any:
    """Sums READ_STREAMS parts of the data step by step on each thread, `repeats` times.

    Each step asks for what comes `ahead` steps later.
    """
    width = READ_CHAINS * lanes

    @T.prim_func(s_tir=True)
    def kernel(d: T.handle, s: T.handle, ahead: T.int64, repeats: T.int64, threads: T.int32):
        T.func_attr({"global_symbol": "kernel", "tirx.noalias": True})
        tasks, steps = T.int64(), T.int64()
        data = T.match_buffer(d, (tasks, READ_STREAMS, steps, width), dtype, align=size)
        sums = T.match_buffer(s, (tasks, width), dtype, align=size)
        for t in T.parallel(threads):
            acc = T.alloc_buffer((width,), dtype, scope="local", annotations=IN_REGISTERS)
            for c in T.unroll(READ_CHAINS):
                acc[T.ramp(c * lanes, 1, lanes)] = T.broadcast(T.Cast(dtype, 0), lanes)
            for _ in range(repeats):
                for i in range(steps):
                    for q in T.unroll(READ_STREAMS):
                        if ahead > 0:
                            later: T.let = T.min(i + ahead, steps - 1)
                            for c in T.unroll(READ_CHAINS):
                                T.evaluate(
                                    T.call_llvm_intrin(
                                        "void",
                                        "llvm.prefetch",
                                        T.address_of(data[t, q, later, c * lanes]),
                                        0,
                                        3,
                                        1,
                                    )
                                )
                        for c in T.unroll(READ_CHAINS):
                            acc[T.ramp(c * lanes, 1, lanes)] = (
                                acc[T.ramp(c * lanes, 1, lanes)]
                                + data[t, q, i, T.ramp(c * lanes, 1, lanes)]
                            )
            for c in T.unroll(READ_CHAINS):
                sums[t, T.ramp(c * lanes, 1, lanes)] = acc[T.ramp(c * lanes, 1, lanes)]

    return kernel


@functools.cache
def _build(
    kernel: Callable[..., Any], lanes: int, dtype: str, size: int, target: targets.Target
) -> Callable[..., Any]:
    module = tvm.IRModule({"kernel": kernel(lanes, dtype, size)})
    built: Callable[..., Any] = tvm.compile(module, target=targets.to_tvm(target))["kernel"]
    return built


def _best(run: Callable[[], Any]) -> float:
    run()
    times = []
    for _ in range(TRIES):
        # Threads that woke up on one core part only when the system has had time to see it.
        time.sleep(PAUSE_SECONDS)
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)
