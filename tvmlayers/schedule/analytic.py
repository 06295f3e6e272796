"""The analytic choice: what a kernel's schedule decides when nothing was tuned.

As BLIS does, from the target's numbers alone: a register tile that fills the vector registers with
accumulators and leaves room for the operands, blocks that stay in the caches, and a thread only
where the work outweighs waking it.
"""

from collections.abc import Callable, Sequence

from tvmlayers.artifact.bf16x3 import PARTS
from tvmlayers.dtypes import numpy_dtype, wide
from tvmlayers.expr.activations import ROW_ACTIVATIONS
from tvmlayers.quantization.kinds import Kind
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
_LEAST_ROWS_AHEAD = 4  # of a table
# From this many rows on the threads share out the rows of a chain; below, the work of each layer.
CHAIN_ROWS = 4
# Of weights in fewer bits; all measured on one core of Sapphire Rapids, 2026-12-01, 3072 x 768.
# Tiles of rows from which on a panel is brought into floats once, and not for each: numbers that
# share a word with others take longer.
_UNPACKED_TILES, _UNPACKED_TILES_OF_WORDS = 6, 3
# The time of products of one digit with codes, of that of floats; those of int4 are taken apart
# first.
_DIGIT_SHARE = {"int8": 0.3, "int4": 0.45}
_DIGIT_PREFETCH_STEPS = 32  # of k
# By how much such a weight slows the vectors down, beside which AMX takes panels in floats, and
# what widening its vectors costs a tile, in rows.
_WIDENING, _WIDENING_ROWS = 1.2, 2.0


def analytic(workload: Workload, target: Target) -> Decisions:
    """The decisions of `spaces.choices_of(workload, target)` by the model above."""
    return _ANALYTIC[workload.kind](workload, target)


def best_tile(m: int, tiles: Sequence[Tile], target: Target, more: float = 0.0) -> Tile:
    """The tile that computes the fewest rows in all, counting the overlap of the last two tiles.

    The tallest on a tie, and always from where the overlap no longer matters; but on a core with
    one multiply-add a cycle the overlap is all that matters. more: what a tile costs beside, in
    rows.
    """
    fitted = target.fitted
    tallest = max(tiles, key=lambda tile: tile.rows)
    if m >= fitted.tallest_from * tallest.rows:
        return tallest

    def rows(tile: Tile) -> float:
        overheads = fitted.tile_overheads
        overhead = overheads[min(tile.rows, len(overheads)) - 1] + more
        return -(-m // tile.rows) * (tile.rows + overhead)

    fitting = [tile for tile in tiles if tile.rows <= m]
    return min(fitting, key=lambda tile: (rows(tile), -tile.rows))


def usual_tiles(k: int, n: int, dtype: str, target: Target) -> list[Tile]:
    """The tiles that the analytic choice makes use of: few, as each is compiled."""
    there = gemm.tiles(k, n, dtype, target)
    widest = max(tile.vectors for tile in there)
    is_large = k * n * numpy_dtype(dtype).itemsize > target.l2 // 8
    fitted = target.fitted
    if widest == 1:
        heights = fitted.narrow_heights
    elif fitted.short_heights is not None and k <= fitted.short_steps:
        heights = fitted.short_heights
    else:
        heights = fitted.heights + fitted.large_heights * is_large
    return [tile for tile in there if tile.vectors == widest and tile.rows in heights]


def _has_one_fma(target: Target) -> bool:
    return target.vector_fmas == 1


def _k_unroll(tile: Tile, target: Target) -> int:
    fitted = target.fitted
    is_many = tile.rows * tile.vectors >= fitted.many_sums
    return fitted.k_unroll_of_many if is_many else fitted.k_unroll


def vector_tile(k: int, n: int, dtype: str, target: Target) -> Decisions:
    """How the tallest tile of the usual vectors is made, of many rows: what takes over where
    another unit cannot be had."""
    tallest = max(gemm.tiles(k, n, dtype, target), key=lambda tile: (tile.vectors, tile.rows))
    return {
        "tile": tallest.name,
        "streams": 1,
        "k_unroll": _k_unroll(tallest, target),
        "prefetch_steps": target.fitted.prefetch_steps,
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
    fitted = target.fitted
    blocks = fitted.amx.chain_blocks if "amx_bf16" in target.cpu_flags else fitted.chain_blocks
    block = max((block for block in blocks if block <= rows), default=None)
    is_driven_out = has_bags and weight_bytes > target.l2 // 2
    return 2 * block if block is not None and is_driven_out else block


def amx_pays(
    m: int,
    k: int,
    n: int,
    target: Target,
    *,
    packed_beside: Tile | None = None,
    vector_share: float = 1.0,
) -> bool:
    """Whether AMX is the faster one for m rows of k by n columns.

    vector_share: of the time that tiles of vectors take with a W in floats.
    packed_beside: where W is packed in its form, the vectors' tile, which computes whole tiles too.

    It multiplies by whole tiles, and x and W (unless it was packed so) have to be split, and the
    sums stored: each has a price, see `targets.fitted`. Where W is packed, x is split while AMX
    multiplies. Rows are counted in two tiles of 16; up to 16 in one, which takes 0.7 of the time.
    """
    price = target.fitted.amx
    tiles = -(-m // 32) * -(-k // 32) * -(-n // 16) * (32 * 32 * 16)
    vectors = price.vector * m * k * n
    if packed_beside is not None:
        vectors *= -(-m // packed_beside.rows) * packed_beside.rows / m
        products = (price.packed_product if m > 16 else price.packed_few) * tiles
        packed = price.packed + products + price.packed_x * m * k + price.packed_result * m * n
        margin = next(margin for most, margin in price.packed_margins if m <= most)
        return vectors > margin * packed
    unit = price.product * tiles + price.x * m * k + price.w * k * n + price.result * m * n
    return vectors * vector_share > price.margin * unit


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
    most = target.fitted.amx.steps
    blocks = [b for b in gemm.k_blocks(k) if b <= most]
    return {
        **usual,
        "k_block": max(blocks, default=0) if k > most else 0,
        "row_block": 512 if k <= 256 else 256,
        # Each thread brings all rows into parts, or all panels: what is less.
        "split": gemm.BY_PANELS if _shares_panels(workload, target, most=n // 2) else gemm.BY_ROWS,
    }


def _on_amx_bf16(workload: Workload, target: Target, tile: Tile) -> Decisions:
    """The decisions for AMX of bfloat16, which brings nothing into another form.

    What threads share out is read by one of them alone: the larger one of x and W.
    """
    k, n = workload["k"], workload["n"]
    by_panels = gemm.panels(k, n, workload["dtype"], target) > 1 and workload["m"] <= n
    blocked, most = max(tile.rows, target.l2 // 4 // (k * 2)), target.fitted.amx.bf16_rows
    return {
        "tile": tile.name,
        "streams": 1,
        "k_unroll": 1,
        "prefetch_steps": 0,
        "next_lines": 0,
        "k_block": 0,
        "row_block": max(r for r in gemm.ROW_BLOCK if r <= min(blocked, most)),
        "split": gemm.BY_PANELS if by_panels else gemm.BY_ROWS,
        "grain_kmacs": max(gemm.GRAIN_KMACS),
    }


def _vector_share(workload: Workload, *, is_digits: bool) -> float:
    """What tiles of vectors take, of the time that those of a W in floats do."""
    kind = Kind.of(workload.stored)
    if is_digits:
        return _DIGIT_SHARE[kind.base] * kind.digits
    return _WIDENING if workload.is_quantized else 1.0


def _on_digits(workload: Workload, target: Target, tile: Tile) -> Decisions:
    """The decisions where digits of x are multiplied with codes: some rows of digits stay in a part
    of L2."""
    m, k, n = (workload[name] for name in ("m", "k", "n"))
    kind = Kind.of(workload.stored)
    bytes_a_row = kind.digits * k
    blocked = max(tile.rows, target.l2 // 4 // bytes_a_row)
    return {
        "tile": tile.name,
        "streams": 1,
        "k_unroll": 1,
        "prefetch_steps": _DIGIT_PREFETCH_STEPS,
        "next_lines": 0,
        "k_block": 0,
        "row_block": max((r for r in gemm.ROW_BLOCK if r <= blocked), default=min(gemm.ROW_BLOCK)),
        "split": gemm.BY_PANELS if _shares_panels(workload, target, most=n // 2) else gemm.BY_ROWS,
        "grain_kmacs": _READ_GRAIN_KMACS if m <= target.fitted.streamed_rows else GRAIN_KMACS,
    }


def _dense(workload: Workload, target: Target) -> Decisions:
    m, k, n, dtype = (workload[name] for name in ("m", "k", "n", "dtype"))
    has_one_fma, fitted = _has_one_fma(target), target.fitted
    more = _WIDENING_ROWS if workload.is_quantized else 0.0
    tile = best_tile(m, usual_tiles(k, n, dtype, target), target, more)
    digits = gemm.digit_tiles(workload, target)
    if digits and digits[-1].unit == gemm.AMX_DIGITS and m >= digits[-1].least:
        return _on_digits(workload, target, digits[-1])
    unit = gemm.amx_tile(k, n, dtype, target)
    bf16 = gemm.amx_bf16_tile(workload, target)
    if bf16 is not None and m >= bf16.least:
        return _on_amx_bf16(workload, target, bf16)
    # Vectors spread the rows of one panel over the threads: the unit should have enough for two.
    shares = 1 if gemm.panels(k, n, dtype, target) > 1 else 2
    if unit is not None and m >= shares * unit.least:
        is_packed = gemm.packs_parts(k, n, workload.stored, target)
        beside = tile if is_packed else None
        share = _vector_share(workload, is_digits=bool(digits))
        if amx_pays(m, k, n, target, packed_beside=beside, vector_share=share):
            return _on_amx(workload, target, unit, is_packed=is_packed)
    if digits:
        fitting = [tile for tile in digits if tile.unit == gemm.DIGITS and tile.rows <= m]
        return _on_digits(workload, target, best_tile(m, fitting, target))
    itemsize, weight_bytes = numpy_dtype(wide(dtype)).itemsize, workload.weight_bytes
    is_near = weight_bytes <= target.l2 // 2
    if is_near:  # from farther away W comes no faster for longer vectors
        there = gemm.sve_tiles(k, n, workload.stored, target)
        tile = next((each for each in there if each.rows == m), tile)
    is_far = weight_bytes > (target.l3 if fitted.far_bytes is None else fitted.far_bytes)
    # Few rows are bound by reading W: two places at a time, a short way ahead. What stays in the
    # second-level cache comes as fast without being asked for.
    streamed = m <= fitted.streamed_rows and n > 1
    ahead = fitted.stream_prefetch_steps if streamed else fitted.prefetch_steps
    # As many bytes of a narrow panel, or of one in fewer bits.
    ahead *= itemsize * k * n // weight_bytes
    if not streamed:
        ahead *= gemm.widest_panel(dtype, target) // gemm.panel_width(k, n, dtype, target)
    ahead = max(steps for steps in gemm.PREFETCH_STEPS if steps <= ahead)
    if n == 1 or (streamed and is_near) or has_one_fma:
        ahead = 0
    # Several tiles go over blocks of a W that the second-level cache cannot hold, and while they
    # compute the next block comes: worth its cost until there are so many that nobody waits. From
    # there on it is for panels that leave no room in that cache to what they multiply.
    k_block, next_lines = 0, 0
    tiles = -(-m // tile.rows)
    panel_bytes = weight_bytes // n * gemm.panel_width(k, n, dtype, target)
    is_long = panel_bytes > target.l2 // 2 and m > fitted.blocked_rows
    usual = fitted.long_block if is_long else fitted.far_block if is_far else fitted.block
    if is_far and tiles <= fitted.far_tiles:
        usual = fitted.few_far_block
    usual = max(usual, gemm.least_k_block(k))
    blocks = [
        size
        for size in gemm.k_blocks(k)
        if size <= usual * 5 // 4 and gemm.panels(k, n, dtype, target) > 1
        if size % gemm.panel_depth(workload, target) == 0
    ]
    if tiles > 1 and (m <= fitted.blocked_rows or is_long) and weight_bytes > target.l2 and blocks:
        k_block, ahead = max(blocks), 0
        wanted = 1 if tiles > 2 or (is_far and not has_one_fma) else 2
        next_lines = max(c for c in gemm.next_line_counts(workload, target) if c <= wanted)
    shares_words = gemm.depth_of(n, workload.stored, target) > 1
    enough = _UNPACKED_TILES_OF_WORDS if shares_words else _UNPACKED_TILES
    if workload.is_quantized and n > 1 and tiles >= enough:
        tile = Tile(tile.rows, tile.vectors, gemm.UNPACKED)
        ahead, next_lines, k_block = 0 if has_one_fma else fitted.prefetch_steps, 0, 0
    unroll = 1 if streamed or is_far else _k_unroll(tile, target)
    unroll = max(unroll, gemm.panel_depth(workload, target))
    if k <= fitted.short_steps:  # storing the result is most of the work: it should stay near
        blocked = max(16, max(target.l2 // 16, fitted.near_bytes) // (n * itemsize))
    elif is_long:
        blocked = fitted.long_rows
    else:
        blocked = max(64, 2 * target.l2 // (k * itemsize))
    by_panels = _shares_panels(workload, target, most=fitted.rows_by_panels)
    grain = GRAIN_KMACS if m >= CHAIN_ROWS else _FEW_ROWS_GRAIN_KMACS
    return {
        "tile": tile.name,
        "streams": 2 if streamed and k >= fitted.streamed_steps else 1,
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
        most = target.fitted.softmax_rows_by_panels[workload.weight_bytes > target.l2]
    return gemm.panels(k, n, dtype, target) > 1 and workload["m"] <= most


def _lookup(workload: Workload, target: Target) -> Decisions:
    # Rows of a table that stays in the second-level cache come as fast without being asked for.
    row_bytes = workload.row_bytes
    is_near = workload["rows"] * row_bytes <= target.l2
    fitted = target.fitted.bag if workload.kind == "bag" else target.fitted.embedding
    ahead = max(_LEAST_ROWS_AHEAD, fitted.ahead_bytes // row_bytes)
    counts = lookup.PREFETCH_ROWS if workload.is_plain else lookup.PREFETCH_SHORT_ROWS
    vectors = lookup.row_vectors(workload, target, target.vector_bytes)
    by_kind: Decisions = {"rows_in_flight": 1} if workload.kind == "embedding" else {}
    # Rows in fewer bits have few lines, and those of bytes begin anywhere: every line is asked for.
    is_paired = (
        workload.is_plain
        and row_bytes <= fitted.paired_row_bytes
        and workload.batch * row_bytes >= fitted.paired_from
    )
    return {
        **by_kind,
        "vector_bytes": target.vector_bytes,
        "unrolled_vectors": max(lookup.run_lengths(vectors)),
        "prefetch_rows": 0 if is_near else max(r for r in counts if r <= ahead),
        "prefetch_stride": 2 if is_paired and not is_near else 1,
        "grain_kib": GRAIN_KIB,
    }


def _softmax(workload: Workload, target: Target) -> Decisions:
    steps, fitted = workload["n"] // target.lanes(workload["dtype"]), target.fitted
    vectors = fitted.softmax_vectors if steps >= fitted.softmax_steps else 1
    return {"vectors": vectors, "grain_kib": GRAIN_KIB}


_ANALYTIC: dict[str, Callable[[Workload, Target], Decisions]] = {
    "dense": _dense,
    "embedding": _lookup,
    "bag": _lookup,
    "softmax": _softmax,
}
