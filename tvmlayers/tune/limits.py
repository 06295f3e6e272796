"""The most that this machine does: multiply-adds in registers, and bytes from memory, a second."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.ir import GlobalVar, IRModule
from tvm.script import tirx as T

from tvmlayers import targets
from tvmlayers.artifact.arena import allocate_arena
from tvmlayers.codegen.pipeline import each_function, machine_code
from tvmlayers.codegen.pool import pool_functions
from tvmlayers.runtime import ffi, threads

TRIES = 9
PAUSE_SECONDS = 0.004
CHAINS = 12
READ_CHAINS = 8  # vectors of a step
# What keeps the most lines in flight differs from core to core: streams that are read at a time,
# and steps that are asked for ahead (0: by the hardware's prefetchers alone).
READ_WAYS = ((1, 0), (1, 8), (4, 0), (4, 2), (4, 4))
MOST_STREAMS = max(streams for streams, _ in READ_WAYS)
ROUNDS = 1 << 18
LEAST_BYTES, MOST_BYTES = 1 << 18, 1 << 30
LEVELS = ("L2", "L3", "memory")
# What a try reads, repeatedly where the data is smaller.
TRY_BYTES = 64 << 20
# What makes TVM leave a small local buffer to LLVM, which then keeps it in registers.
IN_REGISTERS = {"disable_lower_builtin": 1}


def measure(dtype: str, threads: int, held: int) -> dict[str, float]:
    """{"flops": of `dtype`, "bytes": read of data that holds `held`} a second on `threads`."""
    return {"flops": flops(dtype, threads), "bytes": read(dtype, threads, held)}


def flops(dtype: str, threads: int) -> float:
    """FLOP/s of independent multiply-adds in registers."""
    target = targets.native()
    lanes = target.lanes(dtype)
    factor = ffi.from_array(np.full(lanes, 0.5, dtype))
    sums = ffi.from_array(np.zeros((threads, CHAINS * lanes), dtype))
    multiply = build(fma_chains, lanes, dtype)
    done = 2 * CHAINS * lanes * threads * ROUNDS
    return done / best_seconds(lambda: multiply(factor, sums, ROUNDS, threads))


def read(dtype: str, threads: int, held: int) -> float:
    """Bytes/s of reading `held` bytes, or as many as LEAST_BYTES..MOST_BYTES, repeatedly."""
    step = _step_bytes(threads)
    steps = max(1, min(max(held, LEAST_BYTES), MOST_BYTES) // step)
    data = allocate_arena(steps * step)
    repeats = max(1, TRY_BYTES // data.nbytes)
    data[:] = 0  # touched: pages that were never written share one page of zeros
    seconds = (best_seconds(partial(way, repeats)) for way in readers(data, dtype, threads))
    return data.nbytes * repeats / min(seconds)


def level_bytes(machine: targets.Target, threads: int) -> dict[str, int]:
    """By name of LEVELS, how many bytes are read to measure it. Half of a cache is what data can
    count on: other data passes through it too."""
    l2 = machine.l2 * threads
    return dict(zip(LEVELS, (l2 // 2, min(16 * l2, machine.l3 // 2), MOST_BYTES), strict=True))


def readers(data: NDArray[np.uint8], dtype: str, threads: int) -> list[Callable[[int], Any]]:
    """For each of READ_WAYS what reads the whole steps of `data` so many times."""
    lanes = targets.native().lanes(dtype)
    step = _step_bytes(threads)
    whole = data[: data.nbytes // step * step].view(dtype)
    sums = ffi.from_array(np.zeros((threads, READ_CHAINS * lanes), dtype))

    def reader(streams: int, ahead: int) -> Callable[[int], Any]:
        parts = ffi.from_array(whole.reshape(threads, streams, -1, READ_CHAINS * lanes))
        function = build(sum_streams, lanes, dtype, streams, ahead > 0)
        return lambda repeats: function(parts, sums, ahead, repeats, threads)

    return [reader(*way) for way in READ_WAYS]


def _step_bytes(threads: int) -> int:
    """What all threads read in a step of the ways with the most streams."""
    return MOST_STREAMS * READ_CHAINS * targets.native().vector_bytes * threads


def fma_chains(lanes: int, dtype: str) -> Any:
    """`rounds` x CHAINS independent multiply-adds of a vector on each thread."""
    vector, width, size = f"{dtype}x{lanes}", CHAINS * lanes, np.dtype(dtype).itemsize

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


def sum_streams(lanes: int, dtype: str, streams: int, prefetch: bool) -> Any:
    """Sums `streams` parts of the data step by step on each thread, `repeats` times.

    prefetch: whether each step asks for what comes `ahead` steps later.
    """
    width, size = READ_CHAINS * lanes, np.dtype(dtype).itemsize

    @T.prim_func(s_tir=True)
    def kernel(d: T.handle, s: T.handle, ahead: T.int64, repeats: T.int64, threads: T.int32):
        T.func_attr({"global_symbol": "kernel", "tirx.noalias": True})
        tasks, steps = T.int64(), T.int64()
        data = T.match_buffer(d, (tasks, streams, steps, width), dtype, align=size)
        sums = T.match_buffer(s, (tasks, width), dtype, align=size)
        for t in T.parallel(threads):
            acc = T.alloc_buffer((width,), dtype, scope="local", annotations=IN_REGISTERS)
            for c in T.unroll(READ_CHAINS):
                acc[T.ramp(c * lanes, 1, lanes)] = T.broadcast(T.Cast(dtype, 0), lanes)
            for _ in range(repeats):
                for i in range(steps):
                    for q in T.unroll(streams):
                        if prefetch:
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
def build(kernel: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The function that `kernel(*arguments)` describes, for this machine."""
    target = targets.native()
    functions = {GlobalVar("kernel"): kernel(*arguments), **pool_functions(target)}
    code = machine_code(each_function(target)(IRModule(functions)), target)
    threads.join(code)
    built: Callable[..., Any] = code["kernel"]
    return built


def best_seconds(run: Callable[[], Any]) -> float:
    """Of a call: the best of some, each after a pause."""
    run()
    times = []
    for _ in range(TRIES):
        # Threads that woke up on one core part only when the system has had time to see it.
        time.sleep(PAUSE_SECONDS)
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)
