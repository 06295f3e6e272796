"""The kernels that find a lookup's limits, in TVMScript, one task on each thread.

Each is as plain as it can be and still reach its limit; a result is written so that no compiler
can leave the work out. Those for multiply-adds and for reading are in `tvmlayers.tune.limits`.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from tvmlayers.tune.limits import IN_REGISTERS, READ_CHAINS

GATHER_CHAINS = 4
LINE_BYTES = 64


def triad(lanes: int) -> Any:
    """out = x + 3 * y over arrays of (threads, steps, READ_CHAINS * lanes) float32."""
    width = READ_CHAINS * lanes

    @T.prim_func(s_tir=True)
    def kernel(a: T.handle, b: T.handle, o: T.handle, repeats: T.int64, threads: T.int32):
        T.func_attr({"global_symbol": "kernel", "tirx.noalias": True})
        rows, steps = T.int64(), T.int64()
        x = T.match_buffer(a, (rows, steps, width), "float32", align=4)
        y = T.match_buffer(b, (rows, steps, width), "float32", align=4)
        out = T.match_buffer(o, (rows, steps, width), "float32", align=4)
        for t in T.parallel(threads):
            for _ in range(repeats):
                for i in range(steps):
                    for c in T.unroll(READ_CHAINS):
                        out[t, i, T.ramp(c * lanes, 1, lanes)] = (
                            x[t, i, T.ramp(c * lanes, 1, lanes)]
                            + T.broadcast(T.float32(3), lanes)
                            * (y[t, i, T.ramp(c * lanes, 1, lanes)])
                        )

    return kernel


def row_vectors(dim: int, lanes: int) -> tuple[int, int, int]:
    """How gather reads a row of `dim`: vectors of (lanes), in (groups) of (chains)."""
    while lanes > dim:
        lanes //= 2
    vectors = -(-dim // lanes)
    chains = min(GATHER_CHAINS, vectors)
    return lanes, -(-vectors // chains), chains


def gather(dim: int, lanes: int, dtype: str, index_dtype: str) -> Any:
    """Sums the rows `ids` of a table: (rows, dim), prefetching `ahead` rows; writes no rows."""
    lanes, groups, chains = row_vectors(dim, lanes)
    size = {"float32": 4, "float64": 8}[dtype]
    width = chains * lanes
    lines = -(-dim * size // LINE_BYTES)
    line = LINE_BYTES // size

    @T.prim_func(s_tir=True)
    def kernel(w: T.handle, i: T.handle, s: T.handle, ahead: T.int64, threads: T.int32):
        T.func_attr({"global_symbol": "kernel", "tirx.noalias": True})
        rows, count, tasks = T.int64(), T.int64(), T.int64()
        table = T.match_buffer(w, (rows, dim), dtype, align=size)
        ids = T.match_buffer(i, (count,), index_dtype, align=4)
        sums = T.match_buffer(s, (tasks, width), dtype, align=size)
        for t in T.parallel(threads):
            acc = T.alloc_buffer((width,), dtype, scope="local", annotations=IN_REGISTERS)
            for c in T.unroll(chains):
                acc[T.ramp(c * lanes, 1, lanes)] = T.broadcast(T.Cast(dtype, 0), lanes)
            share: T.let = (count + threads - 1) // threads
            begin: T.let = T.min(t * share, count)
            end: T.let = T.min(begin + share, count)
            for n in range(end - begin):
                later: T.let = T.Cast("int64", ids[T.min(begin + n + ahead, end - 1)])
                row: T.let = T.Cast("int64", ids[begin + n])
                for p in T.unroll(lines):
                    T.evaluate(
                        T.call_llvm_intrin(
                            "void",
                            "llvm.prefetch",
                            T.address_of(table[later, T.min(p * line, dim - 1)]),
                            0,
                            3,
                            1,
                        )
                    )
                for g in range(groups):
                    for c in T.unroll(chains):
                        # The last vectors overlap: every element is read, none beyond the row.
                        at: T.let = T.min((g * chains + c) * lanes, dim - lanes)
                        acc[T.ramp(c * lanes, 1, lanes)] = (
                            acc[T.ramp(c * lanes, 1, lanes)] + table[row, T.ramp(at, 1, lanes)]
                        )
            for c in T.unroll(chains):
                sums[t, T.ramp(c * lanes, 1, lanes)] = acc[T.ramp(c * lanes, 1, lanes)]

    return kernel
