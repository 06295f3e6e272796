"""float32 GEMM on AMX, as exact as on the vector units.

x and the panels of W are brought into the unit's form (see `amx_split`) a block of k at a time: x
once for a block of rows, a panel while its first rows are multiplied, unless W was packed in that
form too: then x is, while the first panel is multiplied. An infinity has no such form.
Sums that are not finite are noticed, and the caller computes those rows on the vector units
instead; so it does where Linux does not let this process use the unit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.artifact.bf16x3 import LANES, PARTS, STEP, TILE_BYTES
from tvmlayers.artifact.panels import PanelLayout
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu import amx_split
from tvmlayers.codegen.cpu import amx_tiles as tiles
from tvmlayers.codegen.cpu.amx_split import ROWS, ramp
from tvmlayers.codegen.cpu.amx_tiles import BLOCK
from tvmlayers.codegen.cpu.kernel import Functions, at_column, tensor_arguments
from tvmlayers.codegen.cpu.memory import pointer_from, with_memory
from tvmlayers.codegen.cpu.unpacked import Unpack, unpack_panel
from tvmlayers.codegen.cpu.written import Written
from tvmlayers.codegen.private import CACHE_LINE
from tvmlayers.expr.math import bind
from tvmlayers.expr.reduction import tree
from tvmlayers.expr.stored import KernelAs

_CHECKED_ROWS = 4  # whose sums are checked side by side
_MOST_STACK_BYTES = 128 << 10  # of parts on the stack; more of them are in the C library's memory
GRANTED, _LINE = "tvmlayers_amx_granted", "tvmlayers_amx_line"
# Linux on x86-64: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) is 0 where it is granted, to
# the whole process from then on. It is asked for once: a system call takes as long as some tiles.
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
TEXT = f"""{tiles.TEXT}@{GRANTED}_before = internal global i32 0
declare i64 @syscall(i64, i64, i64)
declare ptr @llvm.ptrmask.p0.i64(ptr, i64)
define i64 @{GRANTED}() {{
  %before = load atomic i32, ptr @{GRANTED}_before monotonic, align 4
  %is_known = icmp ne i32 %before, 0
  br i1 %is_known, label %granted, label %ask
ask:
  %answer = call i64 @syscall(i64 {_ARCH_PRCTL}, i64 {_REQUEST_PERMISSION}, i64 {_TILE_DATA})
  %is_granted = icmp eq i64 %answer, 0
  br i1 %is_granted, label %keep, label %refused
keep:
  store atomic i32 1, ptr @{GRANTED}_before monotonic, align 4
  br label %granted
granted:
  ret i64 1
refused:
  ret i64 0
}}
define ptr @{_LINE}(ptr %memory) {{
  %end = getelementptr i8, ptr %memory, i64 {CACHE_LINE - 1}
  %line = call ptr @llvm.ptrmask.p0.i64(ptr %end, i64 -{CACHE_LINE})
  ret ptr %line
}}
"""


@dataclass(frozen=True)
class AmxSpec:
    """One dense layer on AMX.

    k_block: steps of k for which x and a panel are kept in parts, a multiple of 32; rows: the most
    that come at a time.
    """

    layout: PanelLayout
    k_block: int
    rows: int
    activation: Callable[[Expr], Expr]
    use_bias: bool
    kept: KernelAs

    @property
    def blocks(self) -> int:
        """Blocks of k."""
        return -(-self.layout.k // self.k_block)

    @property
    def is_packed(self) -> bool:
        """Whether the parts of W are there already: they are not packed block by block."""
        return self.layout.has_parts and self.blocks == 1

    @property
    def splits_in_passing(self) -> bool:
        """Whether whole tiles of x come into parts while the first panel is multiplied.

        The vector units work while AMX does, once there is a tile to begin with.
        """
        return self.is_packed and self.layout.k % STEP == 0 and self.layout.k > 2 * STEP

    @property
    def x_bytes(self) -> int:
        """What the parts of the rows of x take."""
        return -(-self.rows // (BLOCK * ROWS)) * BLOCK * self.strip_bytes

    @property
    def panel_bytes(self) -> int:
        """What the parts of a panel take."""
        return self.layout.width // LANES * self.strip_bytes

    @property
    def scratch_bytes(self) -> int:
        """What the parts take that are made in a call."""
        return self.floats_start + self.floats_bytes

    @property
    def floats_start(self) -> int:
        """Where a panel in floats begins in it, behind the parts."""
        return self.x_bytes + (0 if self.is_packed else self.panel_bytes)

    @property
    def is_unpacked(self) -> bool:
        """Whether a panel is brought into floats before it is into parts."""
        return self.kept.stored != "float32"

    @property
    def floats_bytes(self) -> int:
        """What a panel in floats takes; W may be kept in them."""
        return 4 * self.k_block * self.layout.width if self.is_unpacked else 0

    @property
    def strip_bytes(self) -> int:
        """What the parts of a tile's rows of x, or columns of W, take."""
        return self.k_block // STEP * PARTS * TILE_BYTES


def rounded_k_block(k: int, k_block: int) -> int:
    """About `k_block` steps of k (0: all of them), as many in each block, a multiple of 32."""
    blocks = -(-k // (k_block or k))
    return -(-k // (blocks * STEP)) * STEP


def amx_rows(name: str, spec: AmxSpec, functions: Functions) -> GlobalVar:
    """`f(x, w, [scales], [b], out, m, first, last, status)`: m rows by panels first..last-1, on one
    thread.

    It and all that it calls are added to `functions`. The status is 0 where all is computed, else
    nothing can be said of `out`.
    """
    return _Writer(name, spec, functions).rows()


def configure() -> None:
    """Gives this thread's tile registers their shape."""
    configuration = emit.on_stack(len(tiles.CONFIGURATION), "int64")
    for i, word in enumerate(tiles.CONFIGURATION):
        T.buffer_store(emit.view(configuration), emit.i64(word), [emit.i64(i)])
    tiles.intrinsic("ldtilecfg", tirx.address_of(emit.view(configuration)[emit.i64(0)]))


class _Writer(Written):
    """Writes the functions of one layer, each once."""

    def __init__(self, name: str, spec: AmxSpec, functions: Functions) -> None:
        super().__init__(name, functions)
        self._spec, self._layout = spec, spec.layout
        self._unpacks: dict[int, Unpack] = {}

    def rows(self) -> GlobalVar:
        """The function that the others serve."""
        layout = self._layout
        split = self._split_rows()
        split_x = self._function(
            "split_x", partial(amx_split.split_x, layout.k, _CHECKED_ROWS, split)
        )
        full = self._panel(layout.width, layout.width) if layout.full_panels else None
        tail = self._panel(layout.tail_width, layout.tail) if layout.tail else None
        return self._function("rows", lambda: self._write_rows(split_x, full, tail), TEXT)

    def _unpack(self, width: int) -> Unpack:
        if width not in self._unpacks:
            name = f"{self._name}_unpack{width}"
            made = unpack_panel(name, self._spec.kept, width, LANES, self._functions)
            self._unpacks[width] = made
        return self._unpacks[width]

    def _split_rows(self) -> GlobalVar:
        return self._function("split_rows", partial(amx_split.split_rows, self._layout.k))

    def _write_rows(
        self, split_x: GlobalVar, full: GlobalVar | None, tail: GlobalVar | None
    ) -> None:
        spec, layout = self._spec, self._layout
        x, w, by_column, out = tensor_arguments("float32", spec.use_bias, spec.kept)
        m, first, last = (emit.argument(name, "int64") for name in ("m", "first", "last"))
        status = emit.argument("status", "*int32")
        poison = emit.on_stack(_CHECKED_ROWS * BLOCK * LANES, "float32")
        sums = emit.on_stack(BLOCK * ROWS * BLOCK * LANES, "float32")
        chains = range(0, _CHECKED_ROWS * BLOCK * LANES, LANES)

        def panels(memory: Var, begin: Expr, count: Expr, block: Expr) -> None:
            def run(panel: GlobalVar, p: Expr, width: int) -> None:
                columns = p * emit.i64(layout.width)
                if spec.is_packed:
                    parts = emit.i64(layout.parts_start) + p * emit.i64(spec.panel_bytes // 4)
                    pointers = [memory, emit.offset(w, parts)]
                else:
                    pointers = [memory, emit.offset(memory, spec.x_bytes)]
                if spec.is_unpacked:
                    pointers.append(emit.bound(emit.offset(memory, spec.floats_start)))
                    panel_w = emit.offset(w, columns * emit.i64(layout.rows))
                    given = at_column(by_column, columns, spec.kept)
                    self._unpack(width)(panel_w, given, pointers[-1], begin, count)
                else:
                    weight = columns * emit.i64(layout.k) + begin * emit.i64(width)
                    pointers.append(emit.offset(w, weight))
                in_floats = by_column[1:] if spec.kept.groups else by_column
                pointers += [emit.offset(each, columns) for each in (*in_floats, out)]
                pointers += [sums, poison]
                if spec.splits_in_passing:
                    pointers += [x, emit.i64(p == first)]
                emit.call(panel, *pointers, m, count, block)

            if full is not None:
                with T.serial(first, te.min(last, emit.i64(layout.full_panels))) as p:
                    run(full, p, layout.width)
            if tail is not None:
                place = emit.i64(layout.full_panels)
                emit.when(last > place, lambda: run(tail, place, layout.tail_width))

        def compute(memory: Var) -> None:
            configure()
            for chain in chains:
                zeros = tirx.const(0.0, f"float32x{LANES}")
                T.buffer_store(emit.view(poison), zeros, [ramp(emit.i64(chain), LANES)])
            # As a plain number it would make the loop count in 32 bits, which no function takes.
            blocks = emit.kept(emit.i64(spec.blocks))
            with T.serial(emit.i64(0), blocks) as block:
                begin = block * emit.i64(spec.k_block)
                count = te.min(emit.i64(layout.k) - begin, emit.i64(spec.k_block))
                if spec.splits_in_passing:  # all but the rows that fill no two tiles
                    pairs = emit.bound(te.indexdiv(m, emit.i64(BLOCK * ROWS)))
                    row = pairs * emit.i64(BLOCK * ROWS)
                    place = pairs * emit.i64(BLOCK * spec.strip_bytes)
                    start = emit.offset(x, row * emit.i64(layout.k))
                    emit.call(split_x, start, emit.offset(memory, place), m - row, count)
                else:
                    emit.call(split_x, emit.offset(x, begin), memory, m, count)
                panels(memory, begin, count, block)
            tiles.intrinsic("tilerelease")
            total = tree([emit.view(poison)[ramp(emit.i64(chain), LANES)] for chain in chains])
            T.buffer_store(emit.view(poison), total, [ramp(emit.i64(0), LANES)])
            total = tree([emit.view(poison)[emit.i64(lane)] for lane in range(LANES)])
            unfit = tirx.Cast("int32", tirx.isnan(emit.bound(total)))
            T.buffer_store(emit.view(status), unfit, [emit.i64(0)])

        emit.store(status, 1)
        granted = tirx.call_extern("int64", GRANTED) != emit.i64(0)
        if spec.scratch_bytes > _MOST_STACK_BYTES:
            emit.when(granted, lambda: with_memory(spec.scratch_bytes, compute))
            return
        stack = emit.on_stack(spec.scratch_bytes + CACHE_LINE, "uint8")
        memory = emit.bound(pointer_from(_LINE, stack))
        emit.when(granted, lambda: compute(memory))

    def _by_column_arguments(self) -> list[Var]:
        names = ["scales"] * self._spec.kept.has_column_scales + ["b"] * self._spec.use_bias
        return [emit.argument(name, "*float32") for name in names]

    def _panel(self, width: int, valid: int) -> GlobalVar:
        """`f(x parts, w parts, w, [scales], [b], out, sums, poison, [x, is first], m, count,
        block)`: m rows by one panel, over count steps of k; the block of k that they are decides
        what becomes of the sums. x: with `splits_in_passing`; is first: whether its parts have yet
        to be made.
        """
        return self._function(f"panel{valid}", lambda: self._write_panel(width, valid))

    def _write_panel(self, width: int, valid: int) -> None:
        x, parts = emit.argument("x", "*uint8"), emit.argument("parts", "*uint8")
        w = emit.argument("w", "*float32")
        by_column = self._by_column_arguments()
        out, sums = emit.argument("out", "*float32"), emit.argument("sums", "*float32")
        poison = emit.argument("poison", "*float32")
        source = emit.argument("source", "*float32") if self._spec.splits_in_passing else None
        is_first = emit.argument("is_first", "int64") if source is not None else None
        m, count, block = (emit.argument(name, "int64") for name in ("m", "count", "block"))
        stretch = emit.bound(emit.ceil_div(count, STEP) * emit.i64(PARTS * TILE_BYTES))
        group = BLOCK * LANES

        with T.serial(emit.i64(0), emit.ceil_div(m, BLOCK * ROWS)) as i:
            row = i * emit.i64(BLOCK * ROWS)
            here = emit.bound(te.min(m - row, emit.i64(BLOCK * ROWS)))

            def write(column: Expr, strips: int, valid: int) -> None:
                pointers = [
                    emit.offset(x, i * emit.i64(BLOCK) * stretch),
                    emit.offset(parts, te.indexdiv(column, emit.i64(LANES)) * stretch),
                    sums,
                ]
                whole, half = (self._multiply(rows, strips) for rows in (BLOCK, 1))
                cases: list[tuple[Expr | None, Callable[[], None]]] = [
                    (here > emit.i64(ROWS), lambda: emit.call(whole, *pointers, count)),
                    (None, lambda: emit.call(half, *pointers, count)),
                ]
                if source is not None and is_first is not None:
                    new_rows = emit.offset(source, row * emit.i64(self._layout.k))
                    make = self._multiply(BLOCK, strips, "_x", split_x=self._split_rows())
                    is_new = [is_first != emit.i64(0), column == emit.i64(0)]
                    condition = tirx.all(*is_new, here == emit.i64(BLOCK * ROWS))
                    cases.insert(
                        0, (condition, partial(emit.call, make, *pointers, count, new_rows))
                    )
                elif not self._spec.is_packed:
                    split = partial(amx_split.split_w, self._layout.k, width, strips)
                    pair = partial(amx_split.split_pair, width, strips)
                    splits = (
                        self._function(f"split_w{strips}_{width}", split),
                        self._function(f"split_pair{strips}_{width}", pair),
                    )
                    make = self._multiply(BLOCK, strips, f"_w{width}", split_w=splits, width=width)
                    new_panel = partial(emit.call, make, *pointers, count, emit.offset(w, column))
                    cases.insert(0, (i == emit.i64(0), new_panel))
                emit.chain(cases)
                results = [emit.offset(each, column) for each in by_column]
                results += [emit.offset(out, row * emit.i64(self._layout.n) + column), poison]
                emit.call(self._epilogue(valid), sums, *results, here, block)

            with T.serial(emit.i64(0), emit.i64(valid // group)) as g:
                write(emit.i64(g) * emit.i64(group), BLOCK, group)
            if valid % group:
                rest = valid // group * group
                write(emit.i64(rest), (width - rest) // LANES, valid - rest)

    def _multiply(self, rows: int, strips: int, label: str = "", **splits: Any) -> GlobalVar:
        """For so many tiles of rows and strips of a panel; it may bring x or w into parts."""
        write = partial(tiles.multiply, rows, strips, **splits)
        return self._function(f"multiply{label}_{rows}x{strips}", write)

    def _epilogue(self, valid: int) -> GlobalVar:
        """`f(sums, [scales], [b], out, poison, rows, block)`: what becomes of sums over one block
        of k.

        poison gets a NaN where a sum is not finite.
        """
        return self._function(f"epilogue{valid}", lambda: self._write_epilogue(valid))

    def _write_epilogue(self, valid: int) -> None:
        n, blocks = emit.i64(self._layout.n), self._spec.blocks
        columns = -(-valid // LANES) * LANES
        sums = emit.argument("sums", "*float32")
        by_column = self._by_column_arguments()
        out, poison = emit.argument("out", "*float32"), emit.argument("poison", "*float32")
        rows, block = emit.argument("rows", "int64"), emit.argument("block", "int64")

        def write(*, is_first: bool, is_last: bool) -> None:
            def element(row: Expr, column: Expr) -> None:
                place = row * n + column
                value = emit.view(sums)[row * emit.i64(columns) + column]
                if not is_first:
                    value = value + emit.view(out)[place]
                if is_last:
                    for scale in by_column[: self._spec.kept.has_column_scales]:
                        value = value * emit.view(scale)[column]
                    for bias in by_column[self._spec.kept.has_column_scales :]:
                        value = value + emit.view(bias)[column]
                    value = bind(value, self._spec.activation)
                T.buffer_store(emit.view(out), value, [place])

            with T.serial(emit.i64(0), rows) as row:
                for first in range(0, columns, LANES):
                    count = min(LANES, valid - first)
                    loop = T.vectorized if count == LANES else T.serial
                    with loop(emit.i64(0), emit.i64(count)) as lane:
                        element(row, emit.i64(first) + lane)

        # Several sums side by side: one alone would wait for itself. Rows past the last are zeros.
        with T.serial(emit.i64(0), emit.ceil_div(rows, _CHECKED_ROWS)) as group:
            for row in range(_CHECKED_ROWS):
                for first in range(0, columns, LANES):
                    place = (group * emit.i64(_CHECKED_ROWS) + emit.i64(row)) * emit.i64(columns)
                    value = emit.view(sums)[ramp(place + emit.i64(first), LANES)]
                    chain = ramp(emit.i64(row * BLOCK * LANES + first), LANES)
                    value = emit.view(poison)[chain] + value * tirx.const(0.0, f"float32x{LANES}")
                    T.buffer_store(emit.view(poison), value, [chain])
        if blocks == 1:
            write(is_first=True, is_last=True)
            return
        emit.chain(
            [
                (block == emit.i64(0), partial(write, is_first=True, is_last=False)),
                (block == emit.i64(blocks - 1), partial(write, is_first=False, is_last=True)),
                (None, partial(write, is_first=False, is_last=False)),
            ]
        )
