"""GEMM on packed panels: a register tile of accumulators over the whole of K, then the epilogue.

Serves every CPU family: the register tile's rows and the panel's width come with the expression,
the number of lanes from the target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import s_tir

from tvmlayers.artifact.bf16x3 import STEP, parts_bytes
from tvmlayers.artifact.panels import PAIR
from tvmlayers.dtypes import numpy_dtype
from tvmlayers.quantization.kinds import Kind
from tvmlayers.spaces.choices import (
    BLOCK_LOOP,
    COLUMNS,
    K_BLOCK,
    NEXT_LINES,
    OUTLINED,
    PREFETCH,
    STEPS,
    STREAMS,
    TILE_LOOP,
    Choices,
    Decisions,
    choose,
)
from tvmlayers.spaces.sums import BLOCK, MOST_BLOCKS, cut_sum
from tvmlayers.targets import Target
from tvmlayers.workload import Workload

SPACE = "gemm"
K_UNROLL = (1, 2, 4, 8)
PREFETCH_STEPS = (0, 4, 8, 16, 32, 64)  # steps of k
NEXT_LINE_COUNTS = (0, 1, 2, 4)
_K_BLOCKS = (32, 64, 128, 256, 512, 1024)
ROW_BLOCK = (16, 32, 64, 128, 256, 512, 1024, 4096)
GRAIN_KMACS = (24, 48, 96, 192, 384, 768)
BY_ROWS, BY_PANELS = "rows", "panels"
AMX = "amx"  # the tile unit of x86, see `codegen.cpu.amx`
AMX_BF16 = "amx_bf16"  # the same for a bfloat16 layer, see `codegen.cpu.amx_bf16`
UNPACKED = "unpacked"  # the target's usual vectors, on panels that are brought into floats before
DIGITS = "digits"  # x in digits of eight bits by codes of W, see `codegen.cpu.digit_gemm`
AMX_DIGITS = "amx8"  # the same on AMX
# Instructions that multiply four bytes by four and add the products to an int32: those of codes
# have no sign, or all have one.
VPDPBUSD, USDOT, SDOT = "vpdpbusd", "usdot", "sdot"
SVE = "sve"  # ARM's vectors of 256 bits, see `codegen.cpu.sve`

# Vectors of columns in a panel, by the number of vector registers of the target.
_PANEL_VECTORS = {16: 2, 32: 4}
_ROWS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24)
_ARM_ROWS = 12
_DOT_ROWS = (1, 4)
_AMX_ROWS, _AMX_COLUMNS = 32, 32
# Of 16 in a register of the unit; the vectors' tiles that take over fit too. bfloat16 needs no more
# work for fewer rows, but two wait for W alone.
_AMX_LEAST_ROWS, _AMX_BF16_LEAST_ROWS = 12, 3
# Of digits of rows, for which a panel's sums fill the registers; on ARM the constant that takes
# codes apart, or gives them a sign, is in a register as well.
_DIGIT_SUMS, _DIGIT_SUMS_BESIDE_A_CONSTANT = 6, 5
_AMX_DIGIT_STEPS = 64  # of k, in a tile
# Of k: a sum of so many products of a code and a digit, 2^14 at most, fits an int32.
MOST_DIGIT_STEPS = (1 << 17) - 1
_SVE_ROWS = (1, 2, 3)  # from 4 rows on NEON's vectors multiply as many numbers in a cycle
# One or two rows wait for W, and short blocks cost nothing while there are few of them. Tiles of
# more rows all have the same blocks: which tile a row is in depends on the number of threads.
_BLOCK_OF_STREAMS = 32
_BLOCK_OF_CACHE_BLOCK = 256  # where the panel's blocks pass through the caches too
_MOST_K_BLOCKS = 200  # whose sums are added one after another
CACHE_LINE = 64
_MOST_PARTS_BYTES = 1 << 20  # half of a second-level cache of 2 MiB


def panel_width(k: int, n: int, dtype: str, target: Target) -> int:
    """Columns in a full panel: with the tallest tile, all the vector registers are in use.

    A long W of few columns comes in narrower panels, so that threads can share it out.
    """
    lanes = target.lanes(dtype)
    vectors, filled = widest_panel(dtype, target) // lanes, -(-n // lanes)
    if 1 < filled <= vectors and k * n * numpy_dtype(dtype).itemsize >= target.l2 // 4:
        vectors = max(count for count in (1, 2) if count < filled and filled % count == 0)
    return vectors * lanes


def widest_panel(dtype: str, target: Target) -> int:
    """Columns in a panel of a weight with many columns."""
    return _PANEL_VECTORS[target.vector_registers] * target.lanes(dtype)


def gemm_choices(workload: Workload, target: Target) -> Choices:
    """What a dense layer may decide for m rows of k by n columns.

    tile: rows by vectors of columns of the register tile, or of what another unit takes at a time:
    AMX ("amx:32x4"), for which of the others only k_block, row_block, split and grain_kmacs count,
    or SVE's longer vectors ("sve:1x4", counted in NEON's), for which only the last three do;
    "unpacked:6x4" is a register tile on panels of a W in fewer bits that were brought into float32
    before, as AMX's always are; "digits:2x4" and "amx8:32x4" multiply digits of x with codes of W,
    and of the others only row_block, split and grain_kmacs count; streams: stretches of k summed
    side by side, for few rows; k_unroll; prefetch_steps: how many steps of k ahead the panel is
    asked for; k_block: steps of k for which a part of the panel serves all tiles, 0 for all of k;
    next_lines: cache lines of the next block asked for with each step; row_block: rows that a
    thread goes over before it comes back to the first panel (the M block and, where it is no more
    than a tile, the loop order); split: whether threads share the rows or the panels out;
    grain_kmacs: the least 1024 multiply-adds that are worth a thread.
    """
    m, k, n, dtype = (workload[name] for name in ("m", "k", "n", "dtype"))
    streams = stream_counts(m, k, n)
    blocks = [0] if m <= 2 or n < panel_width(k, n, dtype, target) else [0, *k_blocks(k)]
    depth = panel_depth(workload, target)
    blocks = [size for size in blocks if size % depth == 0]
    split = [BY_ROWS] if panels(k, n, dtype, target) == 1 else [BY_ROWS, BY_PANELS]
    there = tiles(k, n, dtype, target)
    if workload.is_quantized and n > 1:
        there += [Tile(tile.rows, tile.vectors, UNPACKED) for tile in there]
    unit = amx_bf16_tile(workload, target) or amx_tile(k, n, dtype, target)
    if unit is not None:
        there.append(unit)
    there += digit_tiles(workload, target)
    if m <= max(_SVE_ROWS):
        there += sve_tiles(k, n, workload.stored, target)
    return {
        "tile": [tile.name for tile in there if tile.least <= m],
        "streams": streams,
        "k_unroll": k_unrolls(workload, target),
        "prefetch_steps": [0] if n == 1 else PREFETCH_STEPS,
        "next_lines": next_line_counts(workload, target) if len(blocks) > 1 else [0],
        "k_block": blocks,
        "row_block": ROW_BLOCK,
        "split": split,
        # One row of a small W looks as fast on two threads as on one where nothing else is done;
        # inside of a model waking the second costs a microsecond.
        "grain_kmacs": GRAIN_KMACS if m > 1 else GRAIN_KMACS[1:],
    }


def k_unrolls(workload: Workload, target: Target) -> list[int]:
    """The steps of k that may be unrolled.

    Every number of streams can be unrolled, as one decision does not know the other.
    """
    m, k, n = (workload[name] for name in ("m", "k", "n"))
    if n == 1:
        steps = k // target.lanes(workload["dtype"])
    else:
        depth = panel_depth(workload, target)
        steps = math.gcd(*(stretch(k, count, depth) for count in stream_counts(m, k, n)))
    return [u for u in K_UNROLL if steps % u == 0]


def next_line_counts(workload: Workload, target: Target) -> list[int]:
    """How many cache lines of the next block may be asked for with each step: of a W in fewer bits
    no more than a row of its panel has, which may be none that is whole."""
    if workload.is_plain:
        return list(NEXT_LINE_COUNTS)
    k, n, dtype = (workload[name] for name in ("k", "n", "dtype"))
    if depth_of(n, workload.stored, target) > 1:  # steps of k share an element
        return [0]
    row = panel_width(k, n, dtype, target) * Kind.of(workload.stored).bits // 8
    return [count for count in NEXT_LINE_COUNTS if count * CACHE_LINE <= row]


def depth_of(n: int, stored: str, target: Target) -> int:
    """Steps of k in an element of a packed W: two int4 share a byte, and products of bytes take
    four steps at a time where the target has them."""
    kind = Kind.of(stored)
    if not kind.is_codes or n == 1:
        return 1
    return 32 // kind.bits if kind.bits < 8 or byte_products(target) else 1


def byte_products(target: Target) -> str:
    """The instruction by which the target multiplies bytes and adds four products to a sum at once;
    "" where it has none."""
    if target.family == "arm":
        flags = {"i8mm": USDOT, "asimddp": SDOT}
    else:
        flags = {"avx512_vnni" if target.vector_bytes == 64 else "avx_vnni": VPDPBUSD}
    return next((name for flag, name in flags.items() if flag in target.cpu_flags), "")


def stream_counts(m: int, k: int, n: int) -> list[int]:
    """In how many stretches k may be read at a time: many only where few rows leave registers."""
    return [count for count in (1, 2, 4) if count <= k] if m <= 2 and n > 1 else [1]


def k_blocks(k: int) -> list[int]:
    """Steps of k in a block: the divisor of k nearest to each usual size, two blocks at least."""
    made: set[int] = set()
    for size in _K_BLOCKS:
        near = range(max(size * 3 // 4, least_k_block(k)), min(size * 3 // 2, k // 2) + 1)
        made.update(sorted((d for d in near if k % d == 0), key=lambda d: abs(d - size))[:1])
    return sorted(made)


def least_k_block(k: int) -> int:
    """The fewest steps of k in a block for which the blocks are not too many to add up."""
    return -(-k // _MOST_K_BLOCKS)


def panels(k: int, n: int, dtype: str, target: Target) -> int:
    """Panels of a weight with n columns."""
    return -(-n // panel_width(k, n, dtype, target))


@dataclass(frozen=True)
class Tile:
    """A register tile: rows of x by vectors of columns; unit: "" for the target's usual vectors,
    AMX, AMX_BF16 or SVE."""

    rows: int
    vectors: int
    unit: str = ""

    @property
    def name(self) -> str:
        """As a decision says it, such as "6x4" or "amx:32x4"."""
        return f"{self.unit}:{self.rows}x{self.vectors}".removeprefix(":")

    @property
    def least(self) -> int:
        """The fewest rows of x that it is taken for: AMX needs no whole tile."""
        least = {AMX: _AMX_LEAST_ROWS, AMX_DIGITS: _AMX_LEAST_ROWS, AMX_BF16: _AMX_BF16_LEAST_ROWS}
        return least.get(self.unit, self.rows)

    @staticmethod
    def of(decisions: Decisions) -> Tile:
        """The tile that `decisions` name."""
        unit, _, shape = str(decisions["tile"]).rpartition(":")
        rows, vectors = shape.split("x")
        return Tile(int(rows), int(vectors), unit)


def tiles(k: int, n: int, dtype: str, target: Target) -> list[Tile]:
    """The register tiles there are for n columns, the fewest rows first.

    A full panel may be gone over in strips of fewer vectors, which leaves registers for more rows.
    """
    if n == 1 or n < panel_width(k, n, dtype, target):
        return tail_tiles(k, n, dtype, target)
    made: list[Tile] = []
    vectors = panel_width(k, n, dtype, target) // target.lanes(dtype)
    while vectors:
        taller = [r for r in _fitting(vectors, target) if not made or r > made[-1].rows]
        made += [Tile(rows, vectors) for rows in taller]
        vectors //= 2
    return made


def amx_tile(k: int, n: int, dtype: str, target: Target) -> Tile | None:
    """The tile of AMX, where the target has one that n columns are worth.

    dtype: of x; W is brought into the unit's form from float32, or by way of it.
    """
    if "amx_bf16" not in target.cpu_flags or dtype != "float32" or n < _AMX_COLUMNS:
        return None
    return Tile(_AMX_ROWS, panel_width(k, n, dtype, target) // target.lanes(dtype), AMX)


def amx_bf16_tile(workload: Workload, target: Target) -> Tile | None:
    """The tile of AMX for a layer of bfloat16, which it multiplies as it is; None as `amx_tile`,
    and for a k that fills no tile."""
    k, n, dtype = (workload[name] for name in ("k", "n", "dtype"))
    is_there = "amx_bf16" in target.cpu_flags and dtype == "bfloat16"
    if not is_there or n < _AMX_COLUMNS or k < STEP:
        return None
    return Tile(_AMX_ROWS, panel_width(k, n, dtype, target) // target.lanes(dtype), AMX_BF16)


def panel_depth(workload: Workload, target: Target) -> int:
    """How many steps of k lie side by side in a panel: in pairs where AMX multiplies pairs."""
    return 1 if amx_bf16_tile(workload, target) is None else PAIR


def stretch(k: int, streams: int, depth: int) -> int:
    """The steps of k that each of so many streams takes: whole pairs where there are some."""
    return k // streams // depth * depth


def digit_tiles(workload: Workload, target: Target) -> list[Tile]:
    """The tiles that multiply digits of x with codes of W, where the target multiplies bytes; those
    of the vectors come first, the fewest rows first."""
    k, n, dtype = (workload[name] for name in ("k", "n", "dtype"))
    kind = Kind.of(workload.stored)
    products = byte_products(target)
    if not kind.is_codes or n == 1 or k > MOST_DIGIT_STEPS or not products:
        return []
    vectors = panel_width(k, n, dtype, target) // target.lanes(dtype)
    has_constant = products == SDOT or (products == USDOT and kind.bits < 8)
    sums = _DIGIT_SUMS_BESIDE_A_CONSTANT if has_constant else _DIGIT_SUMS
    heights = [rows for rows in _ROWS if rows <= max(sums // kind.digits, 1)]
    made = [Tile(rows, vectors, DIGITS) for rows in heights]
    fits = kind.bits == 8 and kind.groups(k) == 1 and k % _AMX_DIGIT_STEPS == 0
    if fits and "amx_int8" in target.cpu_flags and n >= _AMX_COLUMNS:
        made.append(Tile(_AMX_ROWS, vectors, AMX_DIGITS))
    return made


def sve_tiles(k: int, n: int, dtype: str, target: Target) -> list[Tile]:
    """The tiles of SVE's vectors that there are for n columns, the fewest rows first.

    A panel has as many columns in either kind of vector. dtype: of x and W; none for a W in fewer
    bits.
    """
    if dtype not in ("float32", "float64"):
        return []
    vectors = panel_width(k, n, dtype, target) // target.lanes(dtype)
    if "sve" not in target.cpu_flags or n < vectors * target.lanes(dtype) or vectors % 2:
        return []
    return [Tile(rows, vectors, SVE) for rows in _SVE_ROWS]


def packs_parts(k: int, n: int, dtype: str, target: Target) -> bool:
    """Whether W is also packed in AMX's form: it spares each call the work, and takes
    one and a half times the memory of W again, so only where that is little."""
    if dtype != "float32" or amx_tile(k, n, dtype, target) is None:
        return False
    width, lanes = panel_width(k, n, dtype, target), target.lanes(dtype)
    columns = n // width * width + -(-(n % width) // lanes) * lanes
    return parts_bytes(k, columns) <= _MOST_PARTS_BYTES


def tail_tiles(k: int, n: int, dtype: str, target: Target) -> list[Tile]:
    """The register tiles there are for the columns that fill no panel."""
    if n == 1:
        return [Tile(rows, 1) for rows in _DOT_ROWS]
    vectors = -(-(n % panel_width(k, n, dtype, target)) // target.lanes(dtype))
    return [Tile(rows, vectors) for rows in _fitting(vectors, target)]


def _fitting(vectors: int, target: Target) -> list[int]:
    """Rows of a tile whose sums, a row of W and a value of x fit the registers.

    ARM has no multiply-add that reads memory: each row of x takes an address as well.
    """
    tallest = _ARM_ROWS if target.family == "arm" else max(_ROWS)
    registers = target.vector_registers
    return [r for r in _ROWS if r <= tallest and r * vectors + vectors + 1 <= registers]


def gemm_tiles(
    sch: s_tir.Schedule,
    *,
    lanes: int,
    k: int,
    columns: int,
    streams: int,
    cheap_epilogue: bool,
    decisions: Decisions | None,
) -> None:
    """Schedule `expr.dense`: panels outside, row tiles inside, accumulators in registers.

    columns: of a tile, which reads k in `streams` stretches.
    Choices: k_unroll; prefetch_steps, how far ahead the panel is asked for. The epilogue is
    unrolled into the registers when it is cheap; otherwise the tile is first copied out, so that a
    long activation is one small loop in a function of its own instead of 24 copies.
    """
    out, acc = sch.get_sblock("out"), sch.get_sblock("acc")
    padded = len(sch.get_producers(out)) > 0 and sch.get(sch.get_producers(out)[0]).name_hint == (
        "epilogue"
    )
    epilogue = sch.get_producers(out)[0] if padded else out
    *_, t, _, _ = sch.get_loops(epilogue)
    if padded:
        sch.reverse_compute_at(out, t, preserve_unit_loops=True)
        sch.set_scope(epilogue, 0, "local")
    if not cheap_epilogue:
        copy = sch.cache_read(epilogue, 0, "local")
        sch.compute_at(copy, t, preserve_unit_loops=True)
        _unroll_vectors(sch, copy, lanes, unroll=True)
    sch.compute_at(acc, t, preserve_unit_loops=True)
    stream, row, column, step = sch.get_loops(acc)[-4:]
    sch.reorder(step, stream, row, column)
    sch.unroll(stream)
    _sum_in_registers(sch, acc, lanes, k // streams, decisions, streams=streams, columns=columns)
    _unroll_vectors(sch, epilogue, lanes, unroll=cheap_epilogue)
    if not cheap_epilogue:
        sch.annotate(sch.get_loops(epilogue)[-3], OUTLINED, 1)
    if padded:
        for loop in sch.get_loops(out)[-2:]:
            sch.unroll(loop)


def gemm_blocks(
    sch: s_tir.Schedule, *, lanes: int, k_block: int, columns: int, decisions: Decisions | None
) -> None:
    """Schedule `expr.dense` with blocks of k: panels, blocks of k, then row tiles.

    A block of a panel stays in the nearest cache while all tiles go over it, and each tile asks for
    its part of the next one. Choices: as `gemm_tiles`, and next_lines, how many cache lines of the
    next block are asked for with each step.
    """
    out, sums, acc = (sch.get_sblock(name) for name in ("out", "sums", "acc"))
    _, strip, t, row, column, block = sch.get_loops(sums)
    sch.reorder(block, t, row, column)
    sch.reverse_compute_at(out, strip, preserve_unit_loops=True)
    sch.annotate(block, BLOCK_LOOP, 1)
    sch.annotate(t, TILE_LOOP, 1)
    sch.compute_at(acc, t, preserve_unit_loops=True)
    row, column, step = sch.get_loops(acc)[-3:]
    sch.reorder(step, row, column)
    _sum_in_registers(sch, acc, lanes, k_block, decisions, k_block=k_block, columns=columns)
    _unroll_vectors(sch, sums, lanes, unroll=True)
    _unroll_vectors(sch, out, lanes, unroll=False)
    sch.annotate(sch.get_loops(out)[-3], OUTLINED, 1)
    sch.decompose_reduction(sums, block)


def _sum_in_registers(
    sch: s_tir.Schedule,
    acc: s_tir.schedule.SBlockRV,
    lanes: int,
    steps: int,
    decisions: Decisions | None,
    *,
    columns: int,
    streams: int = 1,
    k_block: int = 0,
) -> None:
    """Unroll the tile `acc`, whose last loops are `steps` of k, [streams], rows and columns."""
    sch.set_scope(acc, 0, "local")
    *rest, row, column = sch.get_loops(acc)
    step = rest[-1] if k_block else rest[-2]
    unroll = choose(sch, "k_unroll", [u for u in K_UNROLL if steps % u == 0], decisions)
    vector, lane = sch.split(column, [None, lanes])
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)
    outer, inner = sch.split(step, [None, unroll])
    sch.unroll(inner)
    sch.annotate(outer, PREFETCH, choose(sch, "prefetch_steps", PREFETCH_STEPS, decisions))
    sch.annotate(outer, NEXT_LINES, choose(sch, "next_lines", NEXT_LINE_COUNTS, decisions))
    sch.annotate(outer, K_BLOCK, k_block)
    sch.annotate(outer, STREAMS, streams)
    sch.annotate(outer, COLUMNS, columns)
    sch.annotate(outer, STEPS, steps)
    if streams > 1:
        # Short blocks of a long k would keep memory waiting.
        block = min(BLOCK, max(_BLOCK_OF_STREAMS // streams, steps // MOST_BLOCKS))
    else:
        block = _BLOCK_OF_CACHE_BLOCK if k_block else BLOCK
    cut_sum(sch, outer, steps, block)
    sch.decompose_reduction(acc, outer)


def _unroll_vectors(
    sch: s_tir.Schedule, block: s_tir.schedule.SBlockRV, lanes: int, *, unroll: bool
) -> None:
    row, column = sch.get_loops(block)[-2:]
    vector, lane = sch.split(column, [None, lanes])
    if unroll:
        sch.unroll(row)
        sch.unroll(vector)
    sch.vectorize(lane)


def dot_tiles(sch: s_tir.Schedule, *, k: int, lanes: int, decisions: Decisions | None) -> None:
    """Schedule `expr.dot_rows`: one vector of partial sums for each row of the tile.

    Choice: k_unroll, in vectors.
    """
    out, total = sch.get_sblock("out"), sch.get_sblock("total")
    t, _ = sch.get_loops(out)
    sch.compute_at(total, t, preserve_unit_loops=True)
    sch.set_scope(total, 0, "local")
    if k < lanes:
        return
    acc = sch.get_sblock("acc")
    sch.compute_at(acc, t, preserve_unit_loops=True)
    sch.set_scope(acc, 0, "local")
    *_, row, lane, step = sch.get_loops(acc)
    sch.reorder(step, row, lane)
    sch.unroll(row)
    sch.vectorize(lane)
    sch.unroll(sch.get_loops(total)[-1])
    unroll = choose(sch, "k_unroll", [u for u in K_UNROLL if (k // lanes) % u == 0], decisions)
    outer, inner = sch.split(step, [None, unroll])
    sch.unroll(inner)
    cut_sum(sch, outer, k // lanes)
    sch.decompose_reduction(acc, outer)
