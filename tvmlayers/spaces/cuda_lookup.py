"""Row lookup and bags on a GPU: threads side by side read a row's words side by side."""

from __future__ import annotations

from tvm import s_tir

from tvmlayers.spaces.choices import Choices, Decisions, choose
from tvmlayers.targets import CudaTarget
from tvmlayers.workload import Workload

SPACE = "cuda_lookup"
ROWS_IN_FLIGHT = (1, 2, 4, 8)
THREADS = (64, 128, 256, 512)


def lookup_choices(workload: Workload, target: CudaTarget) -> Choices:
    """What an embedding or a bag may decide: threads of a block, and rows_in_flight, that a thread
    reads one after another without waiting before it copies or reduces them."""
    del workload, target
    return {"rows_in_flight": ROWS_IN_FLIGHT, "threads": THREADS}


def vector_width(width: int, lanes: int) -> int:
    """Elements of a row that a thread reads at a time: all rows begin at a multiple of it."""
    while width % lanes:
        lanes //= 2
    return lanes


def row_threads(width: int, lanes: int, threads: int) -> int:
    """How many threads have a row: one for each vector, rounded up to a power of two."""
    vectors, found = width // vector_width(width, lanes), 1
    while found < vectors and found < threads:
        found *= 2
    return found


def take_rows(sch: s_tir.Schedule, *, width: int, lanes: int, decisions: Decisions | None) -> None:
    """Schedule `expr.take.take`. Choices: threads; rows_in_flight."""
    out, row = sch.get_sblock("out"), sch.get_sblock("row")
    i, j = sch.get_loops(out)
    threads = choose(sch, "threads", THREADS, decisions)
    flight = choose(sch, "rows_in_flight", ROWS_IN_FLIGHT, decisions)
    along = row_threads(width, lanes, int(sch.get(threads)))
    vector = vector_width(width, lanes)
    block, turn, ty = sch.split(i, [None, flight, int(sch.get(threads)) // along])
    turns, tx, lane = sch.split(j, [None, along, vector])
    sch.reorder(block, ty, tx, turn, turns, lane)
    sch.bind(block, "blockIdx.x")
    sch.bind(ty, "threadIdx.y")
    sch.bind(tx, "threadIdx.x")
    sch.unroll(turn)
    sch.vectorize(lane)
    sch.set_scope(row, 0, "local")
    sch.compute_at(row, turn, preserve_unit_loops=True)
    del turns


def bag_columns(sch: s_tir.Schedule, *, threads: int) -> None:
    """Schedule `expr.take.bag` with rows in flight: one bag, its columns shared out among
    `threads`."""
    out, acc, row, fetched = (sch.get_sblock(name) for name in ("out", "acc", "row", "fetched"))
    sums = sch.get_producers(out)
    copy = sch.cache_write(out, 0, "local")
    vector, lane = sch.get_loops(copy)
    _, tx = sch.split(vector, [None, threads])
    sch.bind(tx, "threadIdx.x")
    sch.vectorize(lane)
    sch.compute_at(out, tx, preserve_unit_loops=True)
    sch.unroll(sch.get_loops(out)[-1])
    for block in sums:
        sch.set_scope(block, 0, "local")
        sch.compute_at(block, tx, preserve_unit_loops=True)
    *_, vector, lane, entry, place = sch.get_loops(acc)
    sch.reorder(entry, place, vector, lane)
    sch.unroll(place)
    sch.unroll(lane)
    for block in (fetched, row):
        sch.set_scope(block, 0, "local")
        sch.compute_at(block, entry, preserve_unit_loops=True)
    sch.unroll(sch.get_loops(row)[-1])
    sch.unroll(sch.get_loops(fetched)[-3])
    sch.vectorize(sch.get_loops(fetched)[-1])
    for block in sums:  # a bag of nothing has sums too
        loops = sch.get_loops(block)
        sch.decompose_reduction(block, entry if sch.get(block).name_hint == "acc" else loops[-1])
