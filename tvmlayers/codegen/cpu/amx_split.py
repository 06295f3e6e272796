"""The bf16x3 split: float32 tensors as tiles of bfloat16, for AMX.

Rounded to the 8 bits of a bfloat16, and what is left once more, a float32 is exactly the sum of
three of them: its high, middle and low part.

A tile register holds 16 rows of 64 bytes: 16 columns of float32, or 32 steps of k in bfloat16. x in
parts is tiles of 16 rows and 32 steps, row by row; W in parts is tiles of 32 steps and 16 columns,
strip by strip, where a row holds two steps side by side for each column. AMX multiplies pairs
of steps; here they lie 16 apart, so that two vectors become one without a shuffle. Each tile comes
three times, once for each part.
"""

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.artifact.bf16x3 import LANES, PAIRS, PARTS, STEP, TILE_BYTES
from tvmlayers.codegen import emit
from tvmlayers.codegen.private import prefetch_line

ROWS = 16  # of a tile
_HIGH_BITS, _HALF_BIT = 0xFFFF0000, 0x8000
_GROUP = 8  # rows of x whose tiles are made one after the other; more would share sets of a cache
_STEPS_AHEAD = 4 * STEP  # of x, that are asked for
TILE_WORDS = PARTS * TILE_BYTES // 4  # of a tile in parts


def split_rows(k: int) -> None:
    """`f(x, parts, tiles, first, last)`: rows first..last-1 of one tile of x, of k steps a row.

    x: row 0 at the tile's first step; parts: those of row 0 of this tile; tiles: of a row.
    """
    x, parts = emit.argument("x", "*float32"), emit.argument("parts", "*uint32")
    tiles, first, last = (emit.argument(name, "int64") for name in ("tiles", "first", "last"))
    with T.serial(first, last) as row:
        at = emit.bound(row * emit.i64(k))
        # A row is too short for the hardware's own prefetcher to see where it goes on.
        for line in range(0, STEP, LANES):
            T.evaluate(prefetch_line(emit.view(x)[at + emit.i64(_STEPS_AHEAD + line)]))
        # A line that is to be written has to be fetched as well.
        for part in range(PARTS, 2 * PARTS):
            T.evaluate(prefetch_line(emit.view(parts)[_place(row, tiles, part)], write=True))
        _split_row(x, at, parts, row, tiles)


def split_x(k: int, padding: int, split: GlobalVar) -> None:
    """`f(x, parts, m, count)`: count steps of m rows of x, of k each.

    Steps past the last one are zeros, and so are the rows up to the next multiple of `padding`.
    split: the function of `split_rows`.
    """
    x, parts = emit.argument("x", "*float32"), emit.argument("parts", "*uint32")
    m, count = emit.argument("m", "int64"), emit.argument("count", "int64")
    tiles = emit.bound(emit.ceil_div(count, STEP))
    whole = emit.bound(te.indexdiv(count, emit.i64(STEP)))
    padded = emit.on_stack(STEP, "float32")

    padded_rows = emit.bound(emit.ceil_div(m, padding) * emit.i64(padding))
    with T.serial(m, padded_rows) as row, T.serial(emit.i64(0), tiles) as tile:
        for part in range(PARTS):
            place = _place(row, tiles, part) + tile * emit.i64(TILE_WORDS)
            zeros = tirx.const(0, f"uint32x{PAIRS}")
            T.buffer_store(emit.view(parts), zeros, [ramp(place, PAIRS)])
    # Tile by tile the parts lie side by side, row by row they would be KiB apart.
    with T.serial(emit.i64(0), emit.ceil_div(m, _GROUP)) as group:
        begin = emit.bound(group * emit.i64(_GROUP))
        rows = emit.bound(te.min(m - begin, emit.i64(_GROUP)))
        start = _place(begin, tiles, 0)
        with T.serial(emit.i64(0), whole) as tile:
            emit.call(
                split,
                emit.offset(x, begin * emit.i64(k) + tile * emit.i64(STEP)),
                emit.offset(parts, start + tile * emit.i64(TILE_WORDS)),
                *(tiles, emit.i64(0), rows),
            )

    def rest() -> None:
        zeros = tirx.const(0.0, f"float32x{STEP}")
        T.buffer_store(emit.view(padded), zeros, [ramp(emit.i64(0), STEP)])
        last = whole * emit.i64(STEP)
        with T.serial(emit.i64(0), m) as row:
            with T.serial(last, count) as step:
                value = emit.view(x)[row * emit.i64(k) + step]
                T.buffer_store(emit.view(padded), value, [step - last])
            _split_row(padded, emit.i64(0), parts, row, tiles, whole * emit.i64(TILE_WORDS))

    if k % STEP:
        emit.when(whole < tiles, rest)


def _place(row: Expr, tiles: Expr, part: int) -> Expr:
    """Where a part of a row's first tile begins, in words; parts from PARTS on: the next tile's."""
    above = te.indexdiv(row, emit.i64(ROWS)) * tiles * emit.i64(PARTS) + emit.i64(part)
    return (above * emit.i64(ROWS) + te.indexmod(row, emit.i64(ROWS))) * emit.i64(PAIRS)


def _split_row(
    x: Var, at: Expr, parts: Var, row: Expr, tiles: Expr, tile_place: Expr | int = 0
) -> None:
    """32 steps of x, from `at` on, as a row of a tile."""
    halves = [emit.view(x)[ramp(at + emit.i64(half * PAIRS), PAIRS)] for half in range(2)]
    for part, pairs in enumerate(_paired_parts(*halves)):
        place = _place(row, tiles, part) + emit.i64(tile_place)
        T.buffer_store(emit.view(parts), pairs, [ramp(place, PAIRS)])


def split_w(k: int, width: int, strips: int) -> None:
    """`f(w, parts, stretch, count)`: one tile of each strip of a panel, `width` columns wide.

    stretch: bytes from a strip to the next; count: steps of k that there are from this tile on, in
    a W of k in all; what a tile has beyond them are zeros.
    """
    w, parts = emit.argument("w", "*float32"), emit.argument("parts", "*uint32")
    stretch, count = emit.argument("stretch", "int64"), emit.argument("count", "int64")
    none, all_pairs = emit.i64(0), emit.i64(PAIRS)

    def pairs(first: Expr, last: Expr, has_first: bool = True, has_second: bool = True) -> None:
        with T.serial(first, last) as pair:
            for strip in range(strips):
                read = pair * emit.i64(width) + emit.i64(strip * LANES)
                place = te.indexdiv(emit.i64(strip) * stretch, emit.i64(4))
                place = place + pair * emit.i64(PAIRS)
                _split_pair(w, read, parts, place, width, has_first, has_second)

    def rest() -> None:
        whole = emit.bound(te.max(count - all_pairs, none))
        begun = emit.bound(te.min(count, all_pairs))
        pairs(none, whole)
        pairs(whole, begun, has_second=False)
        pairs(begun, all_pairs, has_first=False, has_second=False)

    if k % STEP == 0:
        pairs(none, all_pairs)
        return
    emit.chain([(count >= emit.i64(STEP), lambda: pairs(none, all_pairs)), (None, rest)])


def split_pair(width: int, strips: int) -> None:
    """`f(w, parts, stretch)`: a row of each strip's tile, of a panel that is `width` columns wide.

    w: the panel at the first step of the pair; parts: the row of the first part of the first tile;
    stretch: bytes from a strip to the next.
    """
    w, parts = emit.argument("w", "*float32"), emit.argument("parts", "*uint32")
    stretch = emit.argument("stretch", "int64")
    for strip in range(strips):
        place = te.indexdiv(emit.i64(strip) * stretch, emit.i64(4))
        _split_pair(w, emit.i64(strip * LANES), parts, place, width)


def _split_pair(
    w: Var,
    read: Expr,
    parts: Var,
    place: Expr,
    width: int,
    has_first: bool = True,
    has_second: bool = True,
) -> None:
    """The same from and to elements that lie so far on; steps that it has not are zeros."""

    def load(place: Expr) -> Expr:
        # The hardware's own prefetcher stops at the end of a page; a panel goes on.
        T.evaluate(prefetch_line(emit.view(w)[place + emit.i64(STEP * width)]))
        return emit.view(w)[ramp(place, LANES)]

    zeros = tirx.const(0.0, f"float32x{LANES}")
    first = load(read) if has_first else zeros
    second = load(read + emit.i64(PAIRS * width)) if has_second else zeros
    for part, pairs in enumerate(_paired_parts(first, second)):
        row = place + emit.i64(part * TILE_BYTES // 4)
        T.buffer_store(emit.view(parts), pairs, [ramp(row, LANES)])


def _paired_parts(first: Expr, second: Expr) -> list[Expr]:
    """High, middle and low of two float32 vectors, a lane of the second above that of the first."""
    pairs = []
    for low, high in zip(_parts(first), _parts(second), strict=True):
        dtype = str(low.ty.dtype)
        shift, mask = tirx.const(16, dtype), tirx.const(_HIGH_BITS, dtype)
        pairs.append((low >> shift) | (high & mask))
    return pairs


def _parts(value: Expr) -> list[Expr]:
    """The bits of high, middle and low of a float32 vector; each has its own in the upper half."""
    dtype = str(value.ty.dtype)
    bits_dtype = dtype.replace("float32", "uint32")
    mask, half = (tirx.const(bits, bits_dtype) for bits in (_HIGH_BITS, _HALF_BIT))
    made = []
    for part in range(PARTS):
        value = emit.bound(value)
        bits = tirx.reinterpret(bits_dtype, value)
        if part < PARTS - 1:
            bits = emit.bound((bits + half) & mask)
            value = value - tirx.reinterpret(dtype, bits)
        made.append(bits)
    return made


def ramp(base: Expr, lanes: int) -> Expr:
    """`lanes` places from base on."""
    return tirx.Ramp(base, emit.i64(1), lanes)
