"""The matrix unit (AMX) of x86 cores: float32 tensors as tiles of bfloat16, and their products.

Rounded to the 8 bits of a bfloat16, and what is left once more, a float32 is exactly the sum of
three of them: its high, middle and low part. Of the nine products of two such sums the six largest
are added up in float32; the three left out stay below 2^-23 of the product, less than sums in
float32 lose by rounding.
(G. Henry, P. T. P. Tang, A. Heinecke: "Leveraging the bfloat16 artificial intelligence datatype for
higher-precision computations", ARITH 2019.)

A tile register holds 16 rows of 64 bytes: 16 columns of float32, or 32 steps of k in bfloat16. x in
parts is tiles of 16 rows and 32 steps, row by row; W in parts is tiles of 32 steps and 16 columns,
strip by strip, where a row holds two steps side by side for each column. The unit multiplies pairs
of steps; here they lie 16 apart, so that two vectors become one without a shuffle. Each tile comes
three times, once for each part.
"""

from functools import partial
from itertools import product

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.build import emit
from tvmlayers.build.private import prefetch_line
from tvmlayers.parts import LANES, PAIRS, PARTS, STEP, TILE_BYTES

ROWS = 16  # of a tile
BLOCK = 2  # tile registers of x, and of W, that are multiplied with one another at a time
_ROW_BYTES = 64
# Pairs of parts of x and W, the least products first; neighbours share a part, which stays loaded.
_PRODUCTS = ((2, 0), (1, 0), (0, 0), (0, 2), (0, 1), (1, 1))
_HIGH_BITS, _HALF_BIT = 0xFFFF0000, 0x8000
_GROUP = 8  # rows of x whose tiles are made one after the other; more would share sets of a cache
_STEPS_AHEAD = 4 * STEP  # of x, that are asked for
_TILE_WORDS = PARTS * TILE_BYTES // 4  # of a tile in parts
# 64 bytes: palette 1; the bytes of a row of each register, 64; and their rows, 16.
CONFIGURATION = (1, 0, 0x0040004000400040, 0x0040004000400040, 0, 0, 0x1010101010101010, 0)


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
            place = _place(row, tiles, part) + tile * emit.i64(_TILE_WORDS)
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
                emit.offset(parts, start + tile * emit.i64(_TILE_WORDS)),
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
            _split_row(padded, emit.i64(0), parts, row, tiles, whole * emit.i64(_TILE_WORDS))

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

    stretch: bytes from a strip to the next; count: steps of k that there are, up to 32, in a W of k
    in all; the others are zeros.
    """
    w, parts = emit.argument("w", "*float32"), emit.argument("parts", "*uint32")
    stretch, count = emit.argument("stretch", "int64"), emit.argument("count", "int64")

    def load(step: Expr, strip: int) -> Expr:
        return emit.view(w)[ramp(step * emit.i64(width) + emit.i64(strip * LANES), LANES)]

    def put(pair: Expr, strip: int, first: Expr, second: Expr) -> None:
        for part, pairs in enumerate(_paired_parts(first, second)):
            place = emit.i64(strip) * stretch + emit.i64(part * TILE_BYTES)
            place = te.indexdiv(place, emit.i64(4)) + pair * emit.i64(LANES)
            T.buffer_store(emit.view(parts), pairs, [ramp(place, LANES)])

    def pairs(first: Expr, last: Expr) -> None:
        with T.serial(first, last) as pair:
            for half, strip in product(range(2), range(strips)):
                # The hardware's own prefetcher stops at the end of a page; a panel goes on.
                ahead = (pair + emit.i64(STEP + half * PAIRS)) * emit.i64(width)
                address = ahead + emit.i64(strip * LANES)
                T.evaluate(prefetch_line(emit.view(w)[address]))
            for strip in range(strips):
                put(pair, strip, load(pair, strip), load(pair + emit.i64(PAIRS), strip))

    zeros = tirx.const(0.0, f"float32x{LANES}")
    none, all_pairs = emit.i64(0), emit.i64(PAIRS)

    def rest() -> None:
        whole = emit.bound(te.max(count - all_pairs, none))
        begun = emit.bound(te.min(count, all_pairs))
        pairs(none, whole)
        with T.serial(whole, begun) as pair:
            for strip in range(strips):
                put(pair, strip, load(pair, strip), zeros)
        with T.serial(begun, all_pairs) as pair:
            for strip in range(strips):
                put(pair, strip, zeros, zeros)

    if k % STEP == 0:
        pairs(none, all_pairs)
        return
    emit.chain([(count >= emit.i64(STEP), lambda: pairs(none, all_pairs)), (None, rest)])


def multiply(
    rows: int,
    columns: int,
    *,
    split_w: GlobalVar | None = None,
    width: int = 0,
    split_x: GlobalVar | None = None,
) -> None:
    """`f(x parts, w parts, sums, count, [panel or x])`: rows by columns tiles of sums over count
    steps.

    sums: float32, the rows of all tiles with their columns side by side. split_w: makes the parts
    of w out of a panel, `width` columns wide, a tile of k ahead of their use: the vector units work
    while the matrix unit does. split_x: so are those of x made, of whole tiles alone.
    """
    x, w = emit.argument("x", "*uint8"), emit.argument("w", "*uint8")
    sums, count = emit.argument("sums", "*float32"), emit.argument("count", "int64")
    tiles = emit.bound(emit.ceil_div(count, STEP))
    x_registers = [rows * columns + i for i in range(rows)]
    w_registers = [rows * columns + rows + i for i in range(columns)]
    stretch = emit.bound(tiles * emit.i64(PARTS * TILE_BYTES))
    for register in range(rows * columns):
        intrinsic("tilezero", _register(register))

    def load(register: int, source: Var, place: Expr) -> None:
        address = tirx.address_of(emit.view(source)[place])
        intrinsic("tileloadd64", _register(register), address, emit.i64(_ROW_BYTES))

    def split_tile(panel: Var, tile: Expr) -> None:
        emit.call(
            split_w,
            emit.offset(panel, tile * emit.i64(STEP * width)),
            emit.offset(w, tile * emit.i64(PARTS * TILE_BYTES)),
            stretch,
            te.min(count - tile * emit.i64(STEP), emit.i64(STEP)),
        )

    def split_x_rows(tile: Expr, first: int, last: int) -> None:
        emit.call(
            split_x,
            emit.offset(source, tile * emit.i64(STEP)),
            emit.offset(x, tile * emit.i64(PARTS * TILE_BYTES)),
            *(tiles, emit.i64(first), emit.i64(last)),
        )

    panel = emit.argument("panel", "*float32") if split_w is not None else None
    source = emit.argument("source", "*float32") if split_x is not None else None
    if panel is not None:
        split_tile(panel, emit.i64(0))
    if source is not None:
        split_x_rows(emit.i64(0), 0, rows * ROWS)
    with T.serial(emit.i64(0), tiles) as tile:
        after = tile + emit.i64(1)
        if panel is not None:
            emit.when(after < tiles, lambda: split_tile(panel, after))
        begin = tile * emit.i64(PARTS * TILE_BYTES)
        held_x = held_w = None
        for number, (x_part, w_part) in enumerate(_PRODUCTS):
            if x_part != held_x:
                for i, register in enumerate(x_registers):
                    load(register, x, begin + emit.i64(x_part * TILE_BYTES) + emit.i64(i) * stretch)
            if w_part != held_w:
                for i, register in enumerate(w_registers):
                    load(register, w, begin + emit.i64(w_part * TILE_BYTES) + emit.i64(i) * stretch)
            held_x, held_w = x_part, w_part
            for i, a in enumerate(x_registers):
                for j, b in enumerate(w_registers):
                    intrinsic("tdpbf16ps", *map(_register, (i * columns + j, a, b)))
            if source is not None:
                share = [rows * ROWS * n // len(_PRODUCTS) for n in (number, number + 1)]
                emit.when(after < tiles, partial(split_x_rows, after, *share))
    for i in range(rows):
        for j in range(columns):
            place = emit.i64((i * ROWS * columns + j) * LANES)
            address = tirx.address_of(emit.view(sums)[place])
            stride = emit.i64(columns * _ROW_BYTES)
            intrinsic("tilestored64", _register(i * columns + j), address, stride)


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


def intrinsic(name: str, *arguments: Expr) -> None:
    """Call one of LLVM's intrinsics for x86 as a statement."""
    T.evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def _register(number: int) -> Expr:
    return tirx.const(number, "int8")
