"""Row lookup and bags: rows copied or summed by whole vectors, indices made safe row by row."""

import math

from tvm import s_tir

from tvmlayers.dtypes import numpy_dtype, wide
from tvmlayers.spaces.choices import Choices, Decisions, choose
from tvmlayers.spaces.sums import cut_open_sum
from tvmlayers.targets import Target
from tvmlayers.workload import Workload

SPACE = "lookup"
PREFETCH_ROWS = (0, 4, 8, 16, 32, 64)
PREFETCH_SHORT_ROWS = (*PREFETCH_ROWS, 96, 160)  # of a table in fewer bits
PREFETCH_STRIDE = (1, 2)
ROWS_IN_FLIGHT = (1, 2, 4)
GRAIN_KIB = (12, 24, 48, 96, 192, 384)
LEAST_STREAMED = 16  # bytes of the narrowest vector that x86 stores past its caches
_LEAST_VECTOR = 16  # bytes
_BAG_BLOCKS = (64, 32)  # of entries that are summed by themselves, and of such blocks


def lookup_choices(workload: Workload, target: Target) -> Choices:
    """What an embedding or a bag may decide.

    vector_bytes: of the vectors that a row is gone over in; unrolled_vectors: how many of them in
    one straight run; prefetch_rows: how many rows ahead a row is asked for; prefetch_stride: each
    of its cache lines, or every second one, which brings its neighbour where the second-level cache
    reads memory in pairs; grain_kib: the least KiB moved that are worth a thread. An embedding also
    rows_in_flight: how many rows are copied side by side.
    """
    widest = target.vector_bytes
    choices: Choices = {
        "vector_bytes": [n for n in (widest, widest // 2, widest // 4) if n >= _LEAST_VECTOR],
        "unrolled_vectors": run_lengths(row_vectors(workload, target, widest)),
        "prefetch_rows": PREFETCH_ROWS if workload.is_plain else PREFETCH_SHORT_ROWS,
        "prefetch_stride": PREFETCH_STRIDE,
        "grain_kib": GRAIN_KIB,
    }
    if workload.kind == "bag":
        return choices
    return {**choices, "rows_in_flight": [n for n in ROWS_IN_FLIGHT if n <= workload.batch]}


def row_vectors(workload: Workload, target: Target, vector_bytes: int) -> int:
    """Vectors that are gone over at a time: of an embedding's row, or of a bag's columns."""
    width, dtype, columns = int(workload["width"]), workload["dtype"], int(workload["width"])
    if workload.kind == "bag":
        dtype = wide(dtype)
        columns = bag_columns(width, dtype, target, workload.stored)
    return -(-columns // row_lanes(width, dtype, vector_bytes, workload.stored))


def row_lanes(width: int, dtype: str, vector_bytes: int, stored: str = "") -> int:
    """Columns in a vector of a row: as many as its bytes hold, or the largest power of two that
    fits in the row; of int4, of which two share a byte, that two vectors are as often as fit."""
    lanes = vector_bytes // numpy_dtype(dtype).itemsize
    while lanes > width or (stored == "int4" and width % (2 * lanes)):
        lanes //= 2
    return lanes


def bag_columns(
    width: int, dtype: str, target: Target, stored: str = "", *, masked: bool = False
) -> int:
    """Columns of a bag that are reduced at a time: on ARM as many as leave registers for what is
    read, and fewer where entries are masked; of int4 all. A row seldom fills the wide registers of
    x86."""
    if target.family != "arm" or stored == "int4":
        return width
    lanes = row_lanes(width, dtype, target.vector_bytes)
    vectors = -(-width // lanes)
    pieces = -(-vectors // (target.vector_registers * (3 if masked else 4) // 8))
    return -(-vectors // pieces) * lanes if pieces > 1 else width


def stream_lanes(width: int, dtype: str, target: Target) -> int | None:
    """Elements in the vectors of a row that can be stored past the caches: the widest that make up
    whole rows; None where there are none."""
    itemsize = numpy_dtype(dtype).itemsize
    lanes = math.gcd(width, target.vector_bytes // itemsize)
    return lanes if target.family == "x86" and lanes * itemsize >= LEAST_STREAMED else None


def take_rows(sch: s_tir.Schedule, *, vectors: int, decisions: Decisions | None) -> None:
    """Schedule `expr.take_vectors`. Choice: unrolled_vectors, of each row in one straight run."""
    out, row = sch.get_sblock("out"), sch.get_sblock("row")
    tile, vector, place, lane = sch.get_loops(out)
    for block in (*_steps(sch, out), row):
        sch.compute_at(block, tile, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
        sch.unroll(sch.get_loops(block)[-1])
    run = choose(sch, "unrolled_vectors", run_lengths(vectors), decisions)
    _, unrolled = sch.split(vector, [None, run])
    sch.unroll(unrolled)
    sch.unroll(place)
    sch.vectorize(lane)


def bag_rows(
    sch: s_tir.Schedule,
    *,
    vectors: int,
    is_sum: bool,
    unroll_result: bool,
    decisions: Decisions | None,
) -> None:
    """Schedule `expr.bag`: the accumulators of a row stay in registers while they fit.

    is_sum: whether rows are added up; unroll_result: whether the result is written in one straight
    run as well. Choice: unrolled_vectors, as in `take_rows`.
    """
    out, row, acc = (sch.get_sblock(name) for name in ("out", "row", "acc"))
    sch.set_scope(acc, 0, "local")
    vector, lane, entry = sch.get_loops(acc)
    sch.reorder(entry, vector, lane)
    for block in (*_steps(sch, acc), row):
        sch.compute_at(block, entry, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
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
    if is_sum:
        cut_open_sum(sch, entry, _BAG_BLOCKS)
    sch.decompose_reduction(acc, entry)


def _steps(sch: s_tir.Schedule, reader: s_tir.schedule.SBlockRV) -> list[s_tir.schedule.SBlockRV]:
    """The stages of a table of bytes that read the scale and the offset of each row."""
    made = sch.get_producers(reader)
    return [block for block in made if sch.get(block).name_hint in ("scale", "offset")]


def run_lengths(vectors: int) -> list[int]:
    """How many of `vectors` may be one straight run: divisors, as many as registers hold."""
    return [n for n in range(1, 17) if vectors % n == 0]
