"""Calls from one LLVM module to functions of another, through their addresses.

A tensor program cannot say this, so LLVM's own text does, which TVM links into a module. Here the
caller holds a slot for each function. In a shared library the linker fills it; a module that was
compiled in this process is handed the table of another one's addresses before it is first called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import CallingConv, Expr, GlobalVar, PointerType
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.kernel import Functions

# TVM's pointer to the function that shares out the parallel loops of a module.
LAUNCHER = "@__TVMBackendParallelLaunch"


@dataclass(frozen=True)
class Exported:
    """A private function that other modules call.

    name: the one that its own module calls it by, which a layer's may be a part of; symbol: what
    the linker knows it by.
    """

    name: GlobalVar
    function: PrimFunc
    symbol: str

    @property
    def external(self) -> PrimFunc:
        """It, for its own module to define."""
        attributes = {"global_symbol": self.symbol, "calling_conv": CallingConv.C_PACKED_FUNC}
        return self.function.with_attr(attributes)

    @property
    def types(self) -> list[str]:
        """Its parameters' types, as LLVM writes them."""
        return [
            "ptr" if isinstance(each.ty, PointerType) else str(each.ty.dtype).replace("int", "i")
            for each in self.function.params
        ]


def address_table(place: int, exported: Sequence[Exported]) -> Functions:
    """`addresses<place>() -> int64`: where the table of these functions' addresses is, for the
    module that defines them. In front is that of its pointer to what shares out parallel loops."""
    symbols = [LAUNCHER, *(f"@{each.symbol}" for each in exported)]
    lines = [f"{symbol} = external global i8" for symbol in symbols]
    entries = ", ".join(f"ptr {symbol}" for symbol in symbols)
    table = f"@tvmlayers_table{place}"
    lines += [
        f"{table} = internal constant [{len(symbols)} x ptr] [{entries}]",
        f"define i64 {table}_address() {{",
        f"  ret i64 ptrtoint (ptr {table} to i64)",
        "}",
    ]

    def body() -> Expr:
        return tirx.call_extern("int64", f"{table[1:]}_address")

    return emit.entry_point(f"addresses{place}", body, lines)


def called_by_address(exported: Sequence[Exported]) -> Functions:
    """What calls these functions in another module, by their own names."""
    return {each.name: each.function.with_body(_call(each)) for each in exported}


def _call(callee: Exported) -> tirx.Stmt:
    called = tirx.call_extern("int32", f"{callee.symbol}_call", *callee.function.params)
    return tirx.SeqStmt([tirx.Evaluate(called), tirx.stmt.Return(tirx.const(0, "int32"))])


def bind_function(modules: Sequence[Sequence[Exported]]) -> Functions:
    """`bind(launch, table of the first module, ...)`, for a module with all that
    `called_by_address` gives: puts the tables' addresses into its slots, and `launch`, the address
    of what shares out parallel loops, into the modules of the tables."""
    lines: list[str] = []
    for place, exported in enumerate(modules):
        for each in exported:
            lines += _slot(each)
        lines += _fill(place, exported)

    def body() -> Expr:
        launch = emit.argument("launch", "int64")
        tables = [emit.argument(f"table{place}", "int64") for place in range(len(modules))]
        for place, table in enumerate(tables):
            T.evaluate(tirx.call_extern("void", f"tvmlayers_fill{place}", launch, table))
        return emit.i64(0)

    return emit.entry_point("bind", body, lines)


def _slot(callee: Exported) -> list[str]:
    """The slot, and the function that calls what is in it.

    Hidden: another library's definition of the same name is not used.
    """
    symbol, types = f"@{callee.symbol}", callee.types
    given = ", ".join(f"{each} %a{i}" for i, each in enumerate(types))
    return [
        f"{symbol} = extern_weak hidden global i8",
        f"{symbol}_slot = internal global ptr {symbol}",
        f"define i32 {symbol}_call({given}) {{",
        f"  %f = load ptr, ptr {symbol}_slot",
        f"  %r = tail call i32 %f({given})",
        "  ret i32 %r",
        "}",
    ]


def _fill(place: int, exported: Sequence[Exported]) -> list[str]:
    lines = [
        f"define void @tvmlayers_fill{place}(i64 %launch, i64 %address) {{",
        "  %table = inttoptr i64 %address to ptr",
        "  %launcher = load ptr, ptr %table",
        "  store i64 %launch, ptr %launcher",
    ]
    for i, each in enumerate(exported, 1):
        lines += [
            f"  %p{i} = getelementptr ptr, ptr %table, i64 {i}",
            f"  %f{i} = load ptr, ptr %p{i}",
            f"  store ptr %f{i}, ptr @{each.symbol}_slot",
        ]
    return [*lines, "  ret void", "}"]
