"""From functions to machine code: several LLVM modules, worked on at the same time.

The kernels of a model are made one after another, and each goes on to the passes and to LLVM while
the next is made. Where they are small several share a module. The entry points are in a module of
their own, the main one, which calls kernels in others by their addresses: linked into a library it
knows them, in this process they are put in when all are there (see `addresses`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tvm.ir import GlobalVar, IRModule
from tvm.tirx import PrimFunc

from tvmlayers import targets
from tvmlayers.codegen.addresses import Exported, address_table, bind_function, called_by_address
from tvmlayers.codegen.cpu import Kernel
from tvmlayers.codegen.cpu.kernel import Functions
from tvmlayers.codegen.pipeline import each_function, machine_code
from tvmlayers.codegen.pool import pool_functions
from tvmlayers.runtime import threads
from tvmlayers.targets import Target

# The passes and LLVM let go of Python's lock.
_MOST_THREADS = 8
_AT_ONCE = 3  # functions that go through the passes together
# Of a module: fewer functions are not worth one of their own.
_LEAST_FUNCTIONS = 8


class Library:
    """A model's machine code: its main module and those whose functions that one calls."""

    def __init__(self, main: Any, others: list[Any]) -> None:
        self._main, self._others = main, others
        self._writing = threading.Lock()  # LLVM writes a module from one thread at a time
        for other in others:
            main.mod.import_module(other.mod)

    def __getitem__(self, symbol: str) -> Any:
        """The entry point of that name."""
        return self._main[symbol]

    def export_library(self, path: str, **options: Any) -> None:
        """A shared library written to `path`, with the options that TVM's function has."""
        with self._writing:
            self._main.export_library(path, **options)

    def assembly(self) -> str:
        """The machine code as an assembler takes it, of one module after the other."""
        with self._writing:
            parts = (self._main, *self._others)
            return "".join(str(part.mod.inspect_source("asm")) for part in parts)


@dataclass(frozen=True)
class _Module:
    """What became of one module of kernels: TVM's executable, and where its table of addresses is
    (None where it cannot run here)."""

    code: Any
    table: int | None


class Modules:
    """The functions of one model on their way to machine code.

    A context: its threads end with it.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._passes = each_function(target)
        self._runs_here = targets.can_make_code() and not targets.obstacle(
            target.triple, target.cpu_flags
        )
        workers = min(targets.physical_cores(), _MOST_THREADS)
        # Of two kinds, as those for LLVM wait for the others.
        self._pool, self._compilers = ThreadPoolExecutor(workers), ThreadPoolExecutor(workers)
        self._waiting: list[Kernel] = []
        self._exported: list[list[Exported]] = []
        self._made: list[Future[_Module]] = []

    def __enter__(self) -> Modules:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._compilers.shutdown(cancel_futures=True)

    def add(self, kernel: Kernel) -> None:
        """Begin with this kernel; the caller may go on."""
        self._waiting.append(kernel)
        if sum(len(each.functions) for each in self._waiting) < _LEAST_FUNCTIONS:
            return
        place = len(self._exported)
        exported = [
            Exported(each.entry, each.functions[each.entry], f"tvmlayers_kernel{place}_{i}")
            for i, each in enumerate(self._waiting)
        ]
        functions: Functions = address_table(place, exported)
        for each in self._waiting:
            functions |= each.functions
        functions |= {each.name: each.external for each in exported}
        self._waiting.clear()
        self._exported.append(exported)
        self._made.append(self._compilers.submit(self._compile, place, self._lowered(functions)))

    def finish(self, entries: Mapping[GlobalVar, PrimFunc]) -> Library:
        """All of it, with the entry points, which call kernels by the names of their entries."""
        functions = dict(entries)
        for kernel in self._waiting:
            functions |= kernel.functions
        for exported in self._exported:
            functions |= called_by_address(exported)
        if self._exported:
            functions |= bind_function(self._exported)
        functions |= pool_functions(self._target)
        main = machine_code(_merged(self._lowered(functions)), self._target)
        made = [future.result() for future in self._made]
        if self._runs_here:
            launch = threads.join(main)
            if self._exported:
                main["bind"](launch, *(each.table for each in made))
        return Library(main, [each.code for each in made])

    def _lowered(self, functions: Functions) -> list[Future[IRModule]]:
        every = list(functions.items())
        return [
            self._pool.submit(self._passes, IRModule(dict(every[first : first + _AT_ONCE])))
            for first in range(0, len(every), _AT_ONCE)
        ]

    def _compile(self, place: int, lowered: list[Future[IRModule]]) -> _Module:
        code = machine_code(_merged(lowered), self._target)
        return _Module(code, code[f"addresses{place}"]() if self._runs_here else None)


def _merged(parts: Iterable[Future[IRModule]]) -> IRModule:
    """All functions, in the order in which they came."""
    whole = IRModule({})
    for part in parts:
        whole.update(part.result())
    return whole
