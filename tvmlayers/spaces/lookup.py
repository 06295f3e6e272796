"""Row lookup and bags: rows copied or summed by whole vectors, indices made safe row by row."""

import math

from tvm import s_tir

from tvmlayers.spaces.choices import Choices, Decisions, choose
from tvmlayers.targets import Target
from tvmlayers.workload import Workload

SPACE = "lookup"
PREFETCH_ROWS = (0, 4, 8, 16, 32, 64)
GRAIN_KIB = (12, 24, 48, 96, 192, 384)
LEAST_STREAMED = 16  # bytes of the narrowest vector that x86 stores past its caches


def lookup_choices(workload: Workload, target: Target) -> Choices:
    """What an embedding or a bag may decide.

    unrolled_vectors: vectors of a row in one straight run; prefetch_rows: how many rows ahead a row
    is asked for; grain_kib: the least KiB moved that are worth a thread.
    """
    return {
        "unrolled_vectors": run_lengths(row_vectors(workload, target)),
        "prefetch_rows": PREFETCH_ROWS,
        "grain_kib": GRAIN_KIB,
    }


def row_vectors(workload: Workload, target: Target) -> int:
    """Whole vectors that are gone over at a time: of a bag's columns, rounded up; of an
    embedding's row, 1 where it has none."""
    width, lanes = int(workload["width"]), target.lanes(workload["dtype"])
    if workload.kind == "bag":
        columns = bag_columns(width, workload["dtype"], target)
        return -(-columns // bag_lanes(width, lanes))
    return max(1, width // lanes) if width % lanes == 0 else 1


def bag_lanes(width: int, lanes: int) -> int:
    """Columns in a vector of a bag's row: a register, or the largest power of two that fits."""
    while lanes > width:
        lanes //= 2
    return lanes


def bag_columns(width: int, dtype: str, target: Target, *, masked: bool = False) -> int:
    """Columns of a bag that are reduced at a time: on ARM as many as leave registers for what is
    read, and fewer where entries are masked. A row seldom fills the wide registers of x86."""
    if target.family != "arm":
        return width
    lanes = bag_lanes(width, target.lanes(dtype))
    vectors = -(-width // lanes)
    pieces = -(-vectors // (target.vector_registers * (3 if masked else 4) // 8))
    return -(-vectors // pieces) * lanes if pieces > 1 else width


def stream_lanes(width: int, dtype: str, target: Target) -> int | None:
    """Elements in the vectors of a row that can be stored past the caches: the widest that make up
    whole rows; None where there are none."""
    lanes = math.gcd(width, target.lanes(dtype))
    itemsize = target.vector_bytes // target.lanes(dtype)
    return lanes if target.family == "x86" and lanes * itemsize >= LEAST_STREAMED else None


def take_rows(sch: s_tir.Schedule, *, lanes: int, width: int, decisions: Decisions | None) -> None:
    """Schedule `expr.take`. Choice: unrolled_vectors, the vectors of a row in one straight run."""
    out, row = sch.get_sblock("out"), sch.get_sblock("row")
    i, _ = sch.get_loops(out)
    sch.compute_at(row, i, preserve_unit_loops=True)
    sch.set_scope(row, 0, "local")
    _vectorize_row(sch, out, lanes, width, decisions)


def bag_rows(
    sch: s_tir.Schedule, *, vectors: int, unroll_result: bool, decisions: Decisions | None
) -> None:
    """Schedule `expr.bag`: the accumulators of a row stay in registers while they fit.

    unroll_result: whether the result is written in one straight run as well. Choice:
    unrolled_vectors, as in `take_rows`.
    """
    out, row, acc = (sch.get_sblock(name) for name in ("out", "row", "acc"))
    sch.set_scope(acc, 0, "local")
    vector, lane, entry = sch.get_loops(acc)
    sch.reorder(entry, vector, lane)
    sch.compute_at(row, entry, preserve_unit_loops=True)
    sch.set_scope(row, 0, "local")
    for block in sch.get_producers(out):
        if sch.get(block).name_hint in ("present", "weight"):
            sch.set_scope(block, 0, "local")
            # Set to zero before its loop, which goes nowhere in an empty bag.
            sch.decompose_reduction(block, sch.get_loops(block)[-1])
    run = choose(sch, "unrolled_vectors", run_lengths(vectors), decisions)
    _, unrolled = sch.split(vector, [None, run])
    sch.unroll(unrolled)
    sch.vectorize(lane)
    vector, lane = sch.get_loops(out)
    if unroll_result:
        sch.unroll(vector)
    sch.vectorize(lane)
    sch.decompose_reduction(acc, entry)


def run_lengths(vectors: int) -> list[int]:
    """How many of `vectors` may be one straight run: divisors, as many as registers hold."""
    return [n for n in range(1, 17) if vectors % n == 0]


def _vectorize_row(
    sch: s_tir.Schedule,
    block: s_tir.schedule.SBlockRV,
    lanes: int,
    width: int,
    decisions: Decisions | None,
) -> None:
    """Whole vectors where the row is made of them; else LLVM vectorises the plain loop."""
    if width % lanes:
        return
    *_, column = sch.get_loops(block)
    vectors = width // lanes
    run = choose(sch, "unrolled_vectors", run_lengths(vectors), decisions)
    _, vector, lane = sch.split(column, [None, run, lanes])
    sch.unroll(vector)
    sch.vectorize(lane)
