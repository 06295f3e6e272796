"""The numbers that the analytic model of schedules was fitted with, by core.

A row of the table has those of its own core, or of the nearest one measured. The model that
uses them is `schedule.analytic`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

KiB, MiB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class LookupNumbers:
    """Of lookups in tables.

    ahead_bytes: of the rows that are prefetched. From paired_from bytes of rows in a call on, and
    for rows of up to paired_row_bytes, every second line is prefetched: they come from memory,
    which the second-level cache reads by pairs of lines, and a core has more rows on their way.
    What is near has no such pairs, and a longer row is streamed by the hardware.
    """

    ahead_bytes: int
    paired_from: float
    paired_row_bytes: int


@dataclass(frozen=True)
class AmxNumbers:
    """Of AMX beside vectors, in nanoseconds on one core.

    vector: of a multiply-add by vectors. product, x, w, result: of a multiply-add by AMX, and of
    splitting an element of x or W, and storing one of the result. packed: of a call where W is
    packed as AMX takes it; packed_*: the rest of its price; packed_few: of up to 16 rows.
    margin: how much faster AMX has to be, because threads that share the panels out all split x,
    which is counted once. packed_margins: the same by the most rows, where W is packed: fewer rows
    than two tiles wait for W as much as for products, and W is half as large again.
    steps: of k that are split at a time; chain_blocks: rows that a chain takes at a time, as W is
    there twice and takes more of the cache. bf16_rows: of a bfloat16 x that a panel is multiplied
    with at a time.
    """

    vector: float
    product: float
    x: float
    w: float
    result: float
    packed: float
    packed_product: float
    packed_few: float
    packed_x: float
    packed_result: float
    margin: float
    packed_margins: tuple[tuple[float, float], ...]
    steps: int
    chain_blocks: tuple[int, ...]
    bf16_rows: int


@dataclass(frozen=True)
class Fitted:
    """source: where the numbers come from; date: of the measurements.

    tile_overheads: what a register tile costs beyond its rows, in rows, by its height; the last is
    for taller tiles too. tallest_from: heights of the tallest tile in the rows from which on it is
    always taken. heights: of the tiles that are compiled; large_heights: too, for a large weight;
    narrow_heights: of tiles of one vector of columns, which need more rows to have enough sums in
    flight; short_heights: where k is up to short_steps.
    k_unroll: steps of k that are unrolled; k_unroll_of_many: for tiles of many_sums or more.
    prefetch_steps: of k that W is prefetched ahead (4 KiB of a panel); stream_prefetch_steps: for
    up to streamed_rows rows, which read W as two streams from streamed_steps steps of k on.
    block, far_block: steps of k in a block of W, and of one that is farther than far_bytes (None:
    than the third-level cache); few_far_block: of that for up to far_tiles tiles. blocked_rows:
    most rows that are worth blocks; long_block, long_rows: steps and rows where a panel fills the
    cache; near_bytes: of a result that is stored while it is near.
    rows_by_panels: the most rows for which threads share the panels out and not the rows, so that
    each reads its own panels alone; softmax_rows_by_panels: the same where a softmax follows, for W
    in the second-level cache, and for a larger one.
    chain_blocks: rows that a chain of layers takes at a time: whole tiles of most heights.
    softmax_vectors: vectors in flight in rows of softmax_steps vectors or more.
    """

    source: str
    date: str
    tile_overheads: tuple[float, ...]
    tallest_from: float
    heights: tuple[int, ...]
    large_heights: tuple[int, ...]
    narrow_heights: tuple[int, ...]
    short_heights: tuple[int, ...] | None
    short_steps: int
    k_unroll: int
    k_unroll_of_many: int
    many_sums: int
    prefetch_steps: int
    stream_prefetch_steps: int
    streamed_rows: int
    streamed_steps: int
    block: int
    far_block: int
    few_far_block: int
    far_tiles: int
    far_bytes: int | None
    blocked_rows: int
    long_block: int
    long_rows: int
    near_bytes: int
    rows_by_panels: int
    softmax_rows_by_panels: tuple[int, int]
    chain_blocks: tuple[int, ...]
    softmax_vectors: int
    softmax_steps: int
    embedding: LookupNumbers
    bag: LookupNumbers
    amx: AmxNumbers


INTEL = Fitted(
    source="one core of Sapphire Rapids, bench/cases.json; AMX: 23 shapes, and 7 with W packed",
    date="2026-11-22 to 2026-11-29",
    tile_overheads=(1.0,),
    tallest_from=16,
    heights=(1, 2, 3, 4, 6),
    large_heights=(5,),
    narrow_heights=(1, 2, 4, 8),
    short_heights=None,
    short_steps=64,
    k_unroll=4,
    # Of so many sums what is prefetched comes in bursts that leave no room for what is read now,
    # longer ones the more is unrolled.
    k_unroll_of_many=2,
    many_sums=12,
    prefetch_steps=16,
    stream_prefetch_steps=4,
    streamed_rows=2,
    streamed_steps=64,
    block=128,
    far_block=64,
    few_far_block=64,
    far_tiles=0,
    far_bytes=64 * MiB,
    blocked_rows=192,
    long_block=512,
    long_rows=1024,
    near_bytes=128 * KiB,
    rows_by_panels=112,
    softmax_rows_by_panels=(8, 64),
    chain_blocks=(48, 96, 192, 384),
    softmax_vectors=4,
    softmax_steps=16,
    embedding=LookupNumbers(8 * KiB, paired_from=4 * MiB, paired_row_bytes=256),
    bag=LookupNumbers(16 * KiB, paired_from=256 * KiB, paired_row_bytes=512),
    amx=AmxNumbers(
        vector=0.0127,
        product=0.0053,
        x=0.37,
        w=0.17,
        result=0.13,
        packed=1100,
        packed_product=0.0049,
        packed_few=0.0035,
        packed_x=0.17,
        packed_result=0.1,
        margin=1.2,
        packed_margins=((16, 1.35), (31, 1.65), (math.inf, 1.1)),
        steps=768,
        chain_blocks=(32, 64),
        bf16_rows=512,
    ),
)

# A core with one multiply-add of a whole vector a cycle is busy with tiles of any height from three
# rows on: the one that computes the fewest rows is best. Where k is short, rows are stored a few at
# a time. More rows of a table ahead drive out what is read now.
ZEN4 = replace(
    INTEL,
    source="one core of Zen 4, cases of bench/cases.json; what it does not say is Intel's",
    date="2026-11-29",
    tile_overheads=(1.0, 0.5, 0.08),
    tallest_from=math.inf,
    short_heights=(1, 2),
    few_far_block=32,
    far_tiles=10,
    far_bytes=None,
    embedding=replace(INTEL.embedding, ahead_bytes=4 * KiB),
    bag=replace(INTEL.bag, ahead_bytes=4 * KiB),
)

# Four elements of x come with one load, and lines do not come in pairs.
ARM = replace(
    INTEL,
    source="no ARM core was measured: unrolling by llvm-mca's models, the rest is Intel's",
    date="2026-11-28",
    k_unroll_of_many=4,
    embedding=replace(INTEL.embedding, paired_from=math.inf),
    bag=replace(INTEL.bag, paired_from=math.inf),
)
