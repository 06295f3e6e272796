"""AMX: products of float32 tensors split into bfloat16.

A float32 is the sum of three bfloat16 (see `amx_split`). Of the nine products of two such sums the
six largest are added up in float32; the three left out stay below 2^-23 of the product, less than
sums in float32 lose by rounding.
(G. Henry, P. T. P. Tang, A. Heinecke: "Leveraging the bfloat16 artificial intelligence datatype for
higher-precision computations", ARITH 2019.)

Products and loads of tiles keep their distance. Back to back they wait in the core's scheduler, and
where the core's other hyperthread is at work too, a product then took 71 cycles of 2.7 GHz instead
of 45; alone it takes 22 either way (measured on Sapphire Rapids).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.artifact.bf16x3 import LANES, PAIRS, PARTS, STEP, TILE_BYTES
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.amx_split import ROWS, ramp
from tvmlayers.codegen.private import CACHE_LINE

BLOCK = 2  # tile registers of x, and of W, that are multiplied with one another at a time
_ROW_BYTES = 64
# That are added up from zero: the error of a running sum grows with its length. As many as the
# steps of k for which W is brought into parts at a time cost nothing.
_SUMMED_STEPS = 24
# Pairs of parts of x and W, the least products first; neighbours share a part, which stays loaded.
_PRODUCTS = ((2, 0), (1, 0), (0, 0), (0, 2), (0, 1), (1, 1))
_PARTS_BY_USE = (2, 0, 1)
# 64 bytes: palette 1; the bytes of a row of each register, 64; and their rows, 16.
CONFIGURATION = (1, 0, 0x0040004000400040, 0x0040004000400040, 0, 0, 0x1010101010101010, 0)
# A distance where there is nothing else to do; four are too few behind a product.
_GAP = "tvmlayers_amx_gap"
# Asks for so many cache lines side by side: the compiler's passes see a call, not each of them.
_FETCH, _FETCHED = "tvmlayers_amx_fetch", 4
_LINES = "".join(
    f"""
  %line{i} = getelementptr i8, ptr %place, i64 {i * CACHE_LINE}
  call void @llvm.prefetch.p0(ptr %line{i}, i32 0, i32 3, i32 1)"""
    for i in range(_FETCHED)
)
TEXT = f"""
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
define void @{_FETCH}(ptr %place) alwaysinline {{{_LINES}
  ret void
}}
define void @{_GAP}() alwaysinline {{
  call void asm sideeffect "{"; ".join(["nop"] * 8)}", ""()
  ret void
}}
"""
# What a core does beside the products of one step: its share of what is done for the next step.
# `fill(after, share)`: after is that step, share(n) the places of n pieces of work, that are due.
_Fill = Callable[[Expr, Callable[[int], range]], None]


def multiply(
    rows: int,
    columns: int,
    *,
    split_w: tuple[GlobalVar, GlobalVar] | None = None,
    width: int = 0,
    split_x: GlobalVar | None = None,
) -> None:
    """`f(x parts, w parts, sums, count, [panel or x])`: rows by columns tiles of sums over count
    steps.

    sums: float32, the rows of all tiles with their columns side by side. split_w: the functions of
    `split_w` and `split_pair`, which make the parts of w out of a panel, `width` columns wide, a
    tile of k ahead of their use: the vector units work while AMX does. split_x: so are
    those of x made, of whole tiles alone.
    """
    x, w = emit.argument("x", "*uint8"), emit.argument("w", "*uint8")
    sums, count = emit.argument("sums", "*float32"), emit.argument("count", "int64")
    step_count = emit.bound(emit.ceil_div(count, STEP))
    stretch = emit.bound(step_count * emit.i64(PARTS * TILE_BYTES))
    x_tiles = _Tiles(x, rows, rows * columns, stretch)
    w_tiles = _Tiles(w, columns, rows * columns + rows, stretch)
    if split_w is not None:
        panel = emit.argument("panel", "*float32")
        fills = [x_tiles.fetch, _split_panel(*split_w, panel, width, w_tiles, count)]
    elif split_x is not None:
        source = emit.argument("source", "*float32")
        fills = [_split_source(split_x, source, x_tiles, step_count), w_tiles.fetch]
    else:
        fills = [x_tiles.fetch, w_tiles.fetch]
    turns = [(*parts, i, j) for parts, i, j in product(_PRODUCTS, range(rows), range(columns))]
    part_sums = emit.on_stack(rows * columns * TILE_BYTES // 4, "float32")
    with T.serial(emit.i64(0), emit.ceil_div(step_count, _SUMMED_STEPS)) as block:
        for number in range(rows * columns):
            intrinsic("tilezero", register(number))
        begin = emit.bound(block * emit.i64(_SUMMED_STEPS))
        left = emit.bound(te.min(step_count - begin, emit.i64(_SUMMED_STEPS)))
        with T.serial(emit.i64(0), left) as inner:
            step = emit.bound(begin + inner)
            after = step + emit.i64(1)
            held: dict[str, int] = {}
            for turn, (x_part, w_part, i, j) in enumerate(turns):
                for name, tiles, part in (("x", x_tiles, x_part), ("w", w_tiles, w_part)):
                    if held.get(name) != part:
                        tiles.load(step, part)
                        held[name] = part
                registers = (i * columns + j, x_tiles.first + i, w_tiles.first + j)
                intrinsic("tdpbf16ps", *map(register, registers))
                for fill in fills:
                    fill(after, partial(_share, turn, len(turns)))
        first = block == emit.i64(0)

        def add() -> None:
            _store(rows, columns, part_sums)
            _add(rows * columns * ROWS, part_sums, sums)

        emit.chain([(first, partial(_store, rows, columns, sums)), (None, add)])


def _store(rows: int, columns: int, sums: Var) -> None:
    for i, j in product(range(rows), range(columns)):
        place = emit.i64((i * ROWS * columns + j) * LANES)
        address = tirx.address_of(emit.view(sums)[place])
        stride = emit.i64(columns * _ROW_BYTES)
        intrinsic("tilestored64", register(i * columns + j), address, stride)


def _add(vectors: int, more: Var, sums: Var) -> None:
    with T.serial(emit.i64(0), emit.i64(vectors)) as vector:
        place = ramp(vector * emit.i64(LANES), LANES)
        total = emit.view(sums)[place] + emit.view(more)[place]
        T.buffer_store(emit.view(sums), total, [place])


def _share(turn: int, turns: int, count: int) -> range:
    """Of `count` pieces of work, those of one turn."""
    return range(count * turn // turns, count * (turn + 1) // turns)


@dataclass(frozen=True)
class _Tiles:
    """Strips of tiles in parts side by side, each with a register, from `first` on.

    stretch: bytes from a strip to the next.
    """

    parts: Var
    strips: int
    first: int
    stretch: Expr

    def load(self, step: Expr, part: int) -> None:
        """One part of a step, into the registers."""
        for strip in range(self.strips):
            address = tirx.address_of(emit.view(self.parts)[self.place(step, part, strip)])
            number = register(self.first + strip)
            intrinsic("tileloadd64", number, address, emit.i64(_ROW_BYTES))
            gap()

    def fetch(self, after: Expr, share: Callable[[int], range]) -> None:
        """A `_Fill`: asks for the cache lines of the step's tiles."""
        lines = range(0, TILE_BYTES, _FETCHED * CACHE_LINE)
        pieces = list(product(_PARTS_BY_USE, range(self.strips), lines))
        for i in share(len(pieces)):
            part, strip, line = pieces[i]
            place = self.place(after, part, strip) + emit.i64(line)
            T.evaluate(tirx.call_extern("void", _FETCH, emit.offset(self.parts, place)))

    def place(self, step: Expr, part: int, strip: int) -> Expr:
        begin = step * emit.i64(PARTS * TILE_BYTES) + emit.i64(part * TILE_BYTES)
        return begin + emit.i64(strip) * self.stretch


def _split_source(split_x: GlobalVar, source: Var, tiles: _Tiles, step_count: Expr) -> _Fill:
    """Makes the first step's parts of x at once; what makes those of the others, row by row."""

    def make(step: Expr, rows: range) -> None:
        emit.call(
            split_x,
            emit.offset(source, step * emit.i64(STEP)),
            emit.offset(tiles.parts, step * emit.i64(PARTS * TILE_BYTES)),
            *(step_count, emit.i64(rows.start), emit.i64(rows.stop)),
        )

    def fill(after: Expr, share: Callable[[int], range]) -> None:
        due = share(tiles.strips * ROWS)
        emit.chain([(after < step_count, lambda: make(after, due)), (None, gap)])

    make(emit.i64(0), range(tiles.strips * ROWS))
    return fill


def _split_panel(
    split_w: GlobalVar, split_pair: GlobalVar, panel: Var, width: int, tiles: _Tiles, count: Expr
) -> _Fill:
    """The same of W: its rows of tiles, but all at once where the panel ends within a step."""
    last = count - emit.i64(STEP)  # the last place in k where a whole step begins

    def make(step: Expr) -> None:
        emit.call(
            split_w,
            emit.offset(panel, step * emit.i64(STEP * width)),
            emit.offset(tiles.parts, step * emit.i64(PARTS * TILE_BYTES)),
            *(tiles.stretch, count - step * emit.i64(STEP)),
        )

    def fill(after: Expr, share: Callable[[int], range]) -> None:
        begin = after * emit.i64(STEP)
        due = share(PAIRS)

        def make_due() -> None:
            for pair in due:
                read = (begin + emit.i64(pair)) * emit.i64(width)
                place = tiles.place(after, 0, 0) + emit.i64(pair * _ROW_BYTES)
                pointers = emit.offset(panel, read), emit.offset(tiles.parts, place)
                emit.call(split_pair, *pointers, tiles.stretch)

        if not due:
            gap()
            return
        emit.chain([(begin <= last, make_due), (None, gap)])
        if due.start == 0:
            emit.when(tirx.all(begin > last, begin < count), lambda: make(after))

    make(emit.i64(0))
    return fill


def gap() -> None:
    """Some distance between instructions of the unit."""
    T.evaluate(tirx.call_extern("void", _GAP))


def intrinsic(name: str, *arguments: Expr) -> None:
    """Call one of LLVM's intrinsics for x86 as a statement."""
    T.evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def register(number: int) -> Expr:
    """One of the tile registers, as intrinsics take it."""
    return tirx.const(number, "int8")
