"""One host function for each entry point of a model on a GPU: the planned Relax function written
out as on the CPU, on addresses of the device's memory.

`f(sizes, inputs, outputs, arena, flags, [scratch, room], device) -> status`, all int64: sizes are
the free axes in the order in which they occur in the inputs, flags an int32 for each check, room
the bytes of scratch. A negative status is minus the bytes of scratch that the call needs; nothing
was launched then.
"""

from typing import Any

from tvm import relax, tirx
from tvm.ir import Call, Expr, Op
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu import Lowered
from tvmlayers.codegen.cuda.launch import DEVICE
from tvmlayers.codegen.forward import Forward, ForwardWriter, storage_of
from tvmlayers.codegen.graph import EntryFunction, extent
from tvmlayers.codegen.private import pointer_type
from tvmlayers.codegen.weights import ALIGNMENT, ArenaPlan
from tvmlayers.targets import CudaTarget


def forward_function(
    planned: relax.Function,
    entry: EntryFunction,
    kernels: dict[str, Lowered],
    arena: ArenaPlan,
    target: CudaTarget,
) -> tuple[Forward, list[str]]:
    """One entry point, and the names of its sizes."""
    writer = _CudaWriter(planned, entry, kernels, arena, target)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(entry.spec.symbol)
        T.func_attr({"global_symbol": entry.spec.symbol, "tirx.noalias": False})
        T.func_ret(emit.INT64)
        writer.write()
    forward = Forward(builder.get(), {}, writer.checks, writer.needs_scratch)
    return forward, free_sizes(entry)


class _CudaWriter(ForwardWriter):
    def write(self) -> None:
        """The body: arguments, then every call of the Relax function in turn."""
        spec = self.entry.spec
        for name in free_sizes(self.entry):
            self.symbols[name] = emit.argument(name, "int64")
        inputs = [at(emit.argument(given.name, "int64"), given.dtype) for given in spec.inputs]
        outputs = [
            at(emit.argument(f"out{i}", "int64"), described["dtype"])
            for i, described in enumerate(self.entry.outputs)
        ]
        arena, self.flags = emit.argument("arena", "int64"), emit.argument("flags", "int64")
        if self.needs_scratch:
            scratch, room = emit.argument("scratch", "int64"), emit.argument("room", "int64")
        self.threads = emit.argument(DEVICE, "int64")
        if self.needs_scratch:
            self._plan_device_scratch(scratch, room)
        calls, _ = self._calls(inputs)
        weights = self.planned.params[len(inputs) :]
        for param, given in zip(self.planned.params, inputs, strict=False):
            self.pointers[param] = given
        for param, name in zip(weights, self.entry.weights, strict=True):
            start = arena + tirx.const(self.arena.offsets[name], "int64")
            self.pointers[param] = at(start, self.arena.dtype(name))
        for var, given in zip(self._results(), outputs, strict=True):
            self.pointers[self._root(var)] = given
        for call in calls:
            self._write_call(call)
        T.Return(tirx.const(0, "int64"))

    def _plan_device_scratch(self, scratch: Expr, room: Expr) -> None:
        """Give every storage its place, or answer how large the scratch has to be."""
        used: Expr = tirx.const(0, "int64")
        for var, nbytes in self._storages().items():
            self.pointers[var] = at(scratch + used, "uint8")
            lines = emit.ceil_div(self._known(nbytes), ALIGNMENT)
            used = used + lines * tirx.const(ALIGNMENT, "int64")
        for binding in self._bindings():
            storage = storage_of(binding)
            if storage is not None:
                self.pointers[binding.var] = self.pointers[storage]
        emit.when(room < used, lambda: T.Return(tirx.const(0, "int64") - used))

    def _flags(self, count: int) -> Any:
        return self.flags

    def _flag(self, flags: Any, i: int) -> Expr:
        return at(flags + tirx.const(4 * i, "int64"), "int32")


def at(address: Expr, dtype: str) -> Expr:
    """The pointer to elements of `dtype` at an int64 address."""
    return Call(Op.get("tirx.reinterpret"), [address], ret_ty=pointer_type(dtype))


def free_sizes(entry: EntryFunction) -> list[str]:
    """The symbols of an entry's inputs, in the order in which they occur."""
    symbols: dict[str, Var] = {}
    for given in entry.spec.inputs:
        for dim in given.dims:
            extent(dim, symbols)
    return list(symbols)
