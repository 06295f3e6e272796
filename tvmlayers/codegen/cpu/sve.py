"""Dense layers of few rows on SVE's vectors of 256 bits, where NEON's have too few sums.

Of one to three rows NEON has too few sums in flight to hide a multiply-add's latency, and loads
that are too narrow to feed them. The register tiles are in `sve_tile`. A core may have vectors of
another length, or Linux allow it shorter ones: then NEON's tile takes over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from tvm import te, tirx
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc, Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.artifact.panels import PanelLayout
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.kernel import Functions, tensor_arguments
from tvmlayers.codegen.cpu.sve_tile import QUAD_BYTES, VECTOR_BYTES, WORDS, WORDS_TEXT, TileText
from tvmlayers.codegen.private import with_text
from tvmlayers.expr.math import bind
from tvmlayers.spaces.gemm import Tile


@dataclass(frozen=True)
class SveSpec:
    """The full panels of one dense layer, a tile at a time; lanes: of the epilogue's vectors."""

    layout: PanelLayout
    tile: Tile
    lanes: int
    activation: Callable[[Expr], Expr]
    use_bias: bool

    @property
    def text(self) -> TileText:
        return TileText(self.tile.rows, self.layout.width, self.layout.dtype)


def sve_rows(name: str, spec: SveSpec, functions: Functions) -> GlobalVar:
    """`f(x, w, [b], out, m, first, last, status)`: m rows by the full ones of panels
    first..last-1, on one thread; added to `functions`.

    The status is 0 where they are computed, 1 where vectors have another length and nothing is.
    """
    made = GlobalVar(name)
    functions[made] = emit.noinline(_with_text(spec, emit.private(lambda: _write_rows(spec))))
    return made


def sve_tile(spec: SveSpec) -> PrimFunc:
    """`f(x, w, sums)`: one tile alone."""

    def body() -> None:
        x, w, sums = (emit.argument(each, f"*{spec.layout.dtype}") for each in ("x", "w", "sums"))
        _call_tile(spec, x, w, sums)

    return _with_text(spec, emit.private(body))


def _write_rows(spec: SveSpec) -> None:
    layout, rows = spec.layout, spec.tile.rows
    x, w, biases, out = tensor_arguments(layout.dtype, spec.use_bias)
    m, first, last = (emit.argument(each, "int64") for each in ("m", "first", "last"))
    status = emit.argument("status", "*int32")
    sums = emit.on_stack(rows * layout.width, layout.dtype)

    def write_tile(p: Expr, t: Expr) -> None:
        row = emit.bound(te.min(t * emit.i64(rows), m - emit.i64(rows)))
        columns = p * emit.i64(layout.width)
        start = emit.offset(x, row * emit.i64(layout.k))
        _call_tile(spec, start, emit.offset(w, columns * emit.i64(layout.k)), sums)
        for r, group in product(range(rows), range(0, layout.width, spec.lanes)):
            with T.vectorized(emit.i64(0), emit.i64(spec.lanes)) as lane:
                column = emit.i64(group) + lane
                value = emit.view(sums)[emit.i64(r * layout.width) + column]
                value = sum((emit.view(b)[columns + column] for b in biases), value)
                place = (row + emit.i64(r)) * emit.i64(layout.n) + columns + column
                T.buffer_store(emit.view(out), bind(value, spec.activation), [place])

    def compute() -> None:
        end = te.min(last, emit.i64(layout.full_panels))
        with T.serial(first, end) as p, T.serial(emit.i64(0), emit.ceil_div(m, rows)) as t:
            write_tile(p, t)
        emit.store(status, 0)

    emit.store(status, 1)
    words = tirx.call_extern("int64", WORDS)
    emit.when(words == emit.i64(VECTOR_BYTES // QUAD_BYTES), compute)


def _call_tile(spec: SveSpec, x: Expr, w: Expr, sums: Var) -> None:
    k = emit.i64(spec.layout.k)
    T.evaluate(tirx.call_extern("void", spec.text.name, x, w, k, sums))


def _with_text(spec: SveSpec, function: PrimFunc) -> PrimFunc:
    """The function with LLVM's text of what it calls."""
    return function.with_body(with_text(function.body, WORDS_TEXT + spec.text.text()))
