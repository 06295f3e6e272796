"""The analytic choice: what a kernel's schedule decides when nothing was tuned.

As BLIS does, from the target's numbers alone: a register tile that fills the vector registers with
accumulators and leaves room for the operands, blocks that stay in the caches, and a thread only
where the work outweighs waking it.
"""

import math
from collections.abc import Callable, Sequence

from tvmlayers.artifact.bf16x3 import PARTS
from tvmlayers.dtypes import numpy_dtype, wide
from tvmlayers.expr.activations import ROW_ACTIVATIONS
from tvmlayers.spaces import gemm, lookup
from tvmlayers.spaces.choices import Decisions
from tvmlayers.spaces.gemm import Tile
from tvmlayers.targets import Target
from tvmlayers.workload import Workload

# Least work that is worth a thread: 1024 multiply-adds of a GEMM, KiB that a row kernel moves.
GRAIN_KMACS = 96
# Of so few rows that no chain takes them: what another layer made lies in one core's cache.
_FEW_ROWS_GRAIN_KMACS = 192
_READ_GRAIN_KMACS = 48  # where every multiply-add reads a weight of its own
GRAIN_KIB = 96
CHAIN_GRAIN_KMACS = GRAIN_KMACS
# Of the rows of a table that are asked for; a bag has nothing to store meanwhile.
_AHEAD_BYTES, _LEAST_ROWS_AHEAD = {"embedding": 8 << 10, "bag": 16 << 10}, 4
# From so many bytes of rows on, and for rows up to so many, every second line is asked for on x86:
# they come from memory, which the second-level cache reads by pairs of lines, and a core has more
# rows on their way. What is near has no such pairs, and a longer row is streamed by the hardware.
_PAIRED_FROM = {"embedding": 4 << 20, "bag": 256 << 10}
_PAIRED_ROW_BYTES = {"embedding": 256, "bag": 512}
_SOFTMAX_VECTORS, _SOFTMAX_STEPS = 4, 16  # in flight, in rows of at least so many
# Of so many sums, on x86 what is asked for ahead comes in bursts that leave no room for what is
# read now, longer ones the more is unrolled; on ARM four elements of x come with one load.
_K_UNROLL, _K_UNROLL_OF_MANY, _MANY_SUMS = 4, 2, 12
_PREFETCH_STEPS = 16  # of k: 4 KiB of a panel, one page ahead
_STREAM_PREFETCH_STEPS = 4
_STREAMED_ROWS = 2
_STREAMED_STEPS = 64  # of k, for two streams to be worth their start
_SHORT_STEPS = 64
_BLOCK, _FAR_BLOCK = 128, 64  # of k
_LONG_BLOCK, _LONG_ROWS = 512, 1024  # of k, and of rows, where a panel fills the cache
_NEAR_BYTES = 128 << 10  # of a result that is stored while it is near
_BLOCKED_ROWS = 192
# By how much AMX has to be faster, by its price: threads that share the panels out all
# bring x into parts, which the price counts once.
_AMX_MARGIN = 1.2
# The same where W is packed in its form, by the most rows. Less than two whole tiles wait for W as
# much as for products: half as large again in that form, it comes late inside of a large model.
_AMX_PACKED_MARGINS = ((16, 1.35), (31, 1.65), (math.inf, 1.1))
_AMX_STEPS = 768  # of k that are brought into the unit's form at a time
_FAR_BYTES = 64 << 20  # a weight that no cache holds
# A core with one multiply-add of a whole vector a cycle is busy with tiles of any height from three
# rows on: the one that computes the fewest rows is best, and while it does the hardware brings W
# along; to ask for it ahead only costs. Where k is short, rows are stored a few at a time.
_OVERHEADS_OF_ONE_FMA = {1: 1.0, 2: 0.5, 3: 0.08}  # in rows, by the height; 3 is for taller too
_ROWS_OF_SHORT_STEPS = (1, 2)
_FAR_BLOCK_OF_ONE_FMA, _TILES_OF_FAR_BLOCK = 32, 10
_AHEAD_BYTES_OF_ONE_FMA = 4 << 10  # of the rows of a table; more drives out what is read now
_WIDE_ROWS = (1, 2, 3, 4, 6)
_LARGE_ROWS = (5,)  # too: a weight for which time in calls is worth some more of compiling
_ROWS_OF_TALLEST = 16  # in heights of the tallest tile: from there on the overlap does not matter
# A tile of a single vector of columns needs more rows to have enough sums in flight.
_NARROW_ROWS = (1, 2, 4, 8)
# Up to this many rows the threads share the panels out: each reads its own part of W only, and one
# tile overlaps its neighbour instead of one for each thread.
_ROWS_BY_PANELS = 112
# Where a softmax follows, the threads would meet once more: fewer, least for a W that stays near.
_SOFTMAX_ROWS_BY_PANELS = {False: 8, True: 64}
# From this many rows on the threads share out the rows of a chain; below, the work of each layer.
CHAIN_ROWS = 4
# Rows that a chain may take through its layers at a time: whole tiles of most heights.
_CHAIN_BLOCKS = (48, 96, 192, 384)
_AMX_CHAIN_BLOCKS = (32, 64)  # AMX has W a second time, which takes more of the cache
# What a tile costs beyond its rows, in rows: loading the panel's vectors and storing the result.
_TILE_OVERHEAD = 1.0


def analytic(workload: Workload, target: Target) -> Decisions:
    """The decisions of `spaces.choices_of(workload, target)` by the model above."""
    return _ANALYTIC[workload.kind](workload, target)


def best_tile(m: int, tiles: Sequence[Tile], target: Target) -> Tile:
    """The tile that computes the fewest rows in all, counting the overlap of the last two tiles.

    The tallest on a tie, and always from where the overlap no longer matters; but on a core with
    one multiply-add a cycle the overlap is all that matters.
    """
    has_one_fma = _has_one_fma(target)
    tallest = max(tiles, key=lambda tile: tile.rows)
    if m >= _ROWS_OF_TALLEST * tallest.rows and not has_one_fma:
        return tallest

    def rows(tile: Tile) -> float:
        overhead = _OVERHEADS_OF_ONE_FMA[min(tile.rows, 3)] if has_one_fma else _TILE_OVERHEAD
        return -(-m // tile.rows) * (tile.rows + overhead)

    fitting = [tile for tile in tiles if tile.rows <= m]
    return min(fitting, key=lambda tile: (rows(tile), -tile.rows))


def usual_tiles(k: int, n: int, dtype: str, target: Target) -> list[Tile]:
    """The tiles that the analytic choice makes use of: few, as each is compiled."""
    there = gemm.tiles(k, n, dtype, target)
    widest = max(tile.vectors for tile in there)
    is_large = k * n * numpy_dtype(dtype).itemsize > target.l2 // 8
    heights: tuple[int, ...]
    if widest == 1:
        heights = _NARROW_ROWS
    elif _has_one_fma(target) and k <= _SHORT_STEPS:
        heights = _ROWS_OF_SHORT_STEPS
    else:
        heights = _WIDE_ROWS + _LARGE_ROWS * is_large
    return [tile for tile in there if tile.vectors == widest and tile.rows in heights]


def _has_one_fma(target: Target) -> bool:
    return target.vector_fmas == 1


def _k_unroll(tile: Tile, target: Target) -> int:
    is_many = target.architecture == "x86_64" and tile.rows * tile.vectors >= _MANY_SUMS
    return _K_UNROLL_OF_MANY if is_many else _K_UNROLL


def vector_tile(k: int, n: int, dtype: str, target: Target) -> Decisions:
    """How the tallest tile of the usual vectors is made, of many rows: what takes over where
    another unit cannot be had."""
    tallest = max(gemm.tiles(k, n, dtype, target), key=lambda tile: (tile.vectors, tile.rows))
    return {
        "tile": tallest.name,
        "streams": 1,
        "k_unroll": _k_unroll(tallest, target),
        "prefetch_steps": _PREFETCH_STEPS,
        "next_lines": 0,
        "k_block": 0,
    }


def chain_block(
    weight_bytes: int, row_bytes: int, target: Target, *, has_bags: bool = False
) -> int | None:
    """How many rows go through a chain of layers at a time; None where layer by layer is better.

    The weights, of so many bytes in all, are read for each block and must stay in the second-level
    cache; what passes between the layers, row_bytes for each row, may fill half of it. Where
    has_bags says that tables are read, their rows drive large weights out with every block: then
    blocks are twice as large, and there are half as many.
    """
    if weight_bytes > target.l2:
        return None
    rows = target.l2 // 2 // max(row_bytes, 1)
    blocks = _AMX_CHAIN_BLOCKS if "amx_bf16" in target.cpu_flags else _CHAIN_BLOCKS
    block = max((block for block in blocks if block <= rows), default=None)
    is_driven_out = has_bags and weight_bytes > target.l2 // 2
    return 2 * block if block is not None and is_driven_out else block


def amx_pays(m: int, k: int, n: int, *, packed_beside: Tile | None = None) -> bool:
    """Whether AMX is the faster one for m rows of k by n columns.

    packed_beside: where W is packed in its form, the vectors' tile, which computes whole tiles too.

    It multiplies by whole tiles, and x, W (unless it was packed so) and the sums have to be brought
    into its form: each has a price in nanoseconds, fitted to what 23 shapes took on one core of
    Sapphire Rapids, and 7 whose W is packed so, which bring x along while the unit works. Rows are
    counted in two tiles of 16; up to 16 in one, which takes 0.7 of the time of two.
    """
    tiles = -(-m // 32) * -(-k // 32) * -(-n // 16) * (32 * 32 * 16)
    vectors = 0.0127 * m * k * n
    if packed_beside is not None:
        vectors *= -(-m // packed_beside.rows) * packed_beside.rows / m
        products = (0.0049 if m > 16 else 0.0035) * tiles
        packed = 1100 + products + 0.17 * m * k + 0.1 * m * n
        margin = next(margin for most, margin in _AMX_PACKED_MARGINS if m <= most)
        return vectors > margin * packed
    unit = 0.0053 * tiles + 0.37 * m * k + 0.17 * k * n + 0.13 * m * n
    return vectors > _AMX_MARGIN * unit


def _on_amx(workload: Workload, target: Target, tile: Tile, *, is_packed: bool) -> Decisions:
    """The decisions for AMX.

    Where W was packed for it, few rows at a time are best. Else W is brought into parts for all
    rows of a block, and those of x and of a panel fill half of L2.
    """
    k, n = workload["k"], workload["n"]
    usual: Decisions = {
        "tile": tile.name,
        "streams": 1,
        "k_unroll": 1,
        "prefetch_steps": 0,
        "next_lines": 0,
        "grain_kmacs": GRAIN_KMACS,
    }
    if is_packed:
        # From there on a thread has two tiles either way, and brings half of the rows into parts.
        by_panels = _shares_panels(workload, target, most=tile.rows * 3 // 2)
        fit = 2 * tile.rows * k * PARTS * 2 <= target.l2 // 8  # and leave most of it to W
        return {
            **usual,
            "k_block": 0,
            "row_block": 2 * tile.rows if fit else tile.rows,
            "split": gemm.BY_PANELS if by_panels else gemm.BY_ROWS,
        }
    blocks = [b for b in gemm.k_blocks(k) if b <= _AMX_STEPS]
    return {
        **usual,
        "k_block": max(blocks, default=0) if k > _AMX_STEPS else 0,
        "row_block": 512 if k <= 256 else 256,
        # Each thread brings all rows into parts, or all panels: what is less.
        "split": gemm.BY_PANELS if _shares_panels(workload, target, most=n // 2) else gemm.BY_ROWS,
    }


def _dense(workload: Workload, target: Target) -> Decisions:
    m, k, n, dtype = (workload[name] for name in ("m", "k", "n", "dtype"))
    has_one_fma = _has_one_fma(target)
    tile = best_tile(m, usual_tiles(k, n, dtype, target), target)
    unit = gemm.amx_tile(k, n, workload.stored, target)
    # Vectors spread the rows of one panel over the threads: the unit should have enough for two.
    shares = 1 if gemm.panels(k, n, dtype, target) > 1 else 2
    if unit is not None and m >= shares * unit.least:
        is_packed = gemm.packs_parts(k, n, dtype, target)
        if amx_pays(m, k, n, packed_beside=tile if is_packed else None):
            return _on_amx(workload, target, unit, is_packed=is_packed)
    itemsize, weight_bytes = numpy_dtype(wide(dtype)).itemsize, workload.weight_bytes
    is_near = weight_bytes <= target.l2 // 2
    if is_near:  # from farther away W comes no faster for longer vectors
        there = gemm.sve_tiles(k, n, workload.stored, target)
        tile = next((each for each in there if each.rows == m), tile)
    is_far = weight_bytes > (target.l3 if has_one_fma else _FAR_BYTES)
    # Few rows are bound by reading W: two places at a time, a short way ahead. What stays in the
    # second-level cache comes as fast without being asked for.
    streamed = m <= _STREAMED_ROWS and n > 1
    ahead = _STREAM_PREFETCH_STEPS if streamed else _PREFETCH_STEPS
    # As many bytes of a narrow panel, or of one in fewer bits.
    ahead *= itemsize * k * n // weight_bytes
    if not streamed:
        ahead *= gemm.widest_panel(dtype, target) // gemm.panel_width(k, n, dtype, target)
    ahead = min(ahead, max(gemm.PREFETCH_STEPS))
    if n == 1 or (streamed and is_near) or has_one_fma:
        ahead = 0
    # Several tiles go over blocks of a W that the second-level cache cannot hold, and while they
    # compute the next block comes: worth its cost until there are so many that nobody waits. From
    # there on it is for panels that leave no room in that cache to what they multiply.
    k_block, next_lines = 0, 0
    tiles = -(-m // tile.rows)
    panel_bytes = weight_bytes // n * gemm.panel_width(k, n, dtype, target)
    is_long = panel_bytes > target.l2 // 2 and m > _BLOCKED_ROWS
    usual = _LONG_BLOCK if is_long else _FAR_BLOCK if is_far else _BLOCK
    if is_far and has_one_fma and tiles <= _TILES_OF_FAR_BLOCK:
        usual = _FAR_BLOCK_OF_ONE_FMA
    usual = max(usual, gemm.least_k_block(k))
    blocks = [
        size
        for size in gemm.k_blocks(k)
        if size <= usual * 5 // 4 and gemm.panels(k, n, dtype, target) > 1
    ]
    if tiles > 1 and (m <= _BLOCKED_ROWS or is_long) and weight_bytes > target.l2 and blocks:
        k_block, ahead = max(blocks), 0
        wanted = 1 if tiles > 2 or (is_far and not has_one_fma) else 2
        next_lines = max(c for c in gemm.next_line_counts(workload, target) if c <= wanted)
    unroll = 1 if streamed or is_far else _k_unroll(tile, target)
    if k <= _SHORT_STEPS:  # storing the result is most of the work: it should stay near
        blocked = max(16, max(target.l2 // 16, _NEAR_BYTES) // (n * itemsize))
    elif is_long:
        blocked = _LONG_ROWS
    else:
        blocked = max(64, 2 * target.l2 // (k * itemsize))
    by_panels = _shares_panels(workload, target, most=_ROWS_BY_PANELS)
    grain = GRAIN_KMACS if m >= CHAIN_ROWS else _FEW_ROWS_GRAIN_KMACS
    return {
        "tile": tile.name,
        "streams": 2 if streamed and k >= _STREAMED_STEPS else 1,
        "k_unroll": max(u for u in gemm.k_unrolls(workload, target) if u <= unroll),
        "prefetch_steps": ahead,
        "next_lines": next_lines,
        "k_block": k_block,
        "row_block": max(r for r in gemm.ROW_BLOCK if r <= blocked),
        "split": gemm.BY_PANELS if by_panels else gemm.BY_ROWS,
        "grain_kmacs": _READ_GRAIN_KMACS if streamed else grain,
    }


def _shares_panels(workload: Workload, target: Target, most: int) -> bool:
    """Whether threads share the panels out and not the rows, as they do for up to `most` rows."""
    k, n, dtype = (workload[name] for name in ("k", "n", "dtype"))
    if workload["activation"] in ROW_ACTIVATIONS:
        most = _SOFTMAX_ROWS_BY_PANELS[workload.weight_bytes > target.l2]
    return gemm.panels(k, n, dtype, target) > 1 and workload["m"] <= most


def _lookup(workload: Workload, target: Target) -> Decisions:
    # Rows of a table that stays in the second-level cache come as fast without being asked for.
    row_bytes = workload.row_bytes
    is_near = workload["rows"] * row_bytes <= target.l2
    most_ahead = _AHEAD_BYTES_OF_ONE_FMA if _has_one_fma(target) else _AHEAD_BYTES[workload.kind]
    ahead = max(_LEAST_ROWS_AHEAD, most_ahead // row_bytes)
    vectors = lookup.row_vectors(workload, target, target.vector_bytes)
    by_kind: Decisions = {"rows_in_flight": 1} if workload.kind == "embedding" else {}
    # Rows in fewer bits have few lines, and those of bytes begin anywhere: every line is asked for.
    is_paired = (
        target.family == "x86"
        and workload.is_plain
        and row_bytes <= _PAIRED_ROW_BYTES[workload.kind]
        and workload.batch * row_bytes >= _PAIRED_FROM[workload.kind]
    )
    return {
        **by_kind,
        "vector_bytes": target.vector_bytes,
        "unrolled_vectors": max(lookup.run_lengths(vectors)),
        "prefetch_rows": 0 if is_near else max(r for r in lookup.PREFETCH_ROWS if r <= ahead),
        "prefetch_stride": 2 if is_paired and not is_near else 1,
        "grain_kib": GRAIN_KIB,
    }


def _softmax(workload: Workload, target: Target) -> Decisions:
    steps = workload["n"] // target.lanes(workload["dtype"])
    return {"vectors": _SOFTMAX_VECTORS if steps >= _SOFTMAX_STEPS else 1, "grain_kib": GRAIN_KIB}


_ANALYTIC: dict[str, Callable[[Workload, Target], Decisions]] = {
    "dense": _dense,
    "embedding": _lookup,
    "bag": _lookup,
    "softmax": _softmax,
}
