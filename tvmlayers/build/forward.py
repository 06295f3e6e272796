"""One host function for each entry point: the planned Relax function without its virtual machine.

A Relax function in destination-passing style is a straight line of allocations and calls. Written
out as one PrimFunc it costs the caller a single call: the arguments are checked once, kernels get
bare pointers, and what passes between them lies in one scratch buffer that the caller keeps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc, Var
from tvm.tirx.script.builder import ir as T
from tvm_ffi import structural_map

from tvmlayers.build import emit
from tvmlayers.build.graph import COPY, EntryFunction, extent
from tvmlayers.build.kernels import Lowered, elements
from tvmlayers.build.weights import ALIGNMENT, ArenaPlan
from tvmlayers.signature import LAST_STATUS_BIT


def forward_function(
    planned: relax.Function,
    entry: EntryFunction,
    kernels: dict[str, Lowered],
    copies: dict[str, Any],
    arena: ArenaPlan,
) -> tuple[PrimFunc, list[dict[str, Any]], bool]:
    """(function, checks, whether it takes scratch) of one entry point.

    The function is `f(*inputs, *outputs, arena, threads, [scratch]) -> status`, with scratch where
    there are intermediates. Bit i of the status is set when check i failed; the last bit stands for
    all others. A negative status is minus the bytes of scratch that the call needs, which were not
    there; nothing was computed then.
    """
    writer = ForwardWriter(planned, entry, kernels, copies, arena)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(entry.spec.symbol)
        T.func_attr({"global_symbol": entry.spec.symbol, "tirx.noalias": False})
        T.func_ret(emit.INT64)
        writer.write()
    return builder.get(), writer.checks, writer.needs_scratch


class ForwardWriter:
    """Writes one entry point; `build.cuda.forward` has the same line for a GPU."""

    copies_take_threads = False

    def __init__(
        self,
        planned: relax.Function,
        entry: EntryFunction,
        kernels: dict[str, Lowered],
        copies: dict[str, Any],
        arena: ArenaPlan,
    ) -> None:
        self.planned, self.entry, self.kernels = planned, entry, kernels
        self.copies, self.arena = copies, arena
        self.symbols: dict[str, Var] = {}
        self.pointers: dict[Any, Expr] = {}
        self.alias: dict[Any, Any] = {}
        self.inputs: dict[Any, int] = {}
        self.checks: list[dict[str, Any]] = []
        self._find_aliases()
        self.needs_scratch = bool(self._storages())

    def write(self) -> None:
        """The body: arguments, then every binding of the Relax function in turn."""
        inputs = self._arguments()
        outputs = [
            self._tensor(f"out{i}", o["shape"], o["dtype"])
            for i, o in enumerate(self.entry.outputs)
        ]
        arena = T.arg("arena", T.buffer((max(self.arena.nbytes, 64),), "uint8", align=64))
        self.threads = T.arg("threads", Var("threads", "int32"))
        if self.needs_scratch:
            room = Var("room", "int64")
            scratch = T.arg("scratch", T.buffer((room,), "uint8", align=64))
            self._plan_scratch(scratch, room)
        for position, (param, buffer) in enumerate(zip(self.planned.params, inputs, strict=False)):
            self.pointers[param] = buffer.data
            self.inputs[param] = position
        for param, name in zip(self.planned.params[len(inputs) :], self.entry.weights, strict=True):
            start = tirx.const(self.arena.offsets[name], "int64")
            self.pointers[param] = tirx.address_of(arena[start])
        self._bind_outputs(outputs)
        flags = self._flags()
        for binding in self._bindings():
            self._write_binding(binding, flags)
        status: Expr = tirx.const(0, "int64")
        if flags is not None:
            for i in range(len(self.checks)):
                bit = tirx.const(min(i, LAST_STATUS_BIT), "int64")
                status = tirx.bitwise_or(status, tirx.Cast("int64", flags[i]) << bit)
        T.Return(status)

    def _storages(self) -> list[tuple[Any, Expr]]:
        """(variable, bytes) of all that has to be stored between the kernels."""
        results = {self._root(var) for var in self._results()}
        storages: list[tuple[Any, Expr]] = []
        for binding in self._bindings():
            var, value = binding.var, binding.value
            op = _op_name(value) if isinstance(value, relax.Call) else None
            if op == "relax.memory.alloc_storage":
                (nbytes,) = value.args[0].values
                storages.append((var, nbytes))
            elif op == "relax.builtin.alloc_tensor" and var not in results:
                itemsize = tirx.const(np.dtype(str(var.ty.dtype)).itemsize, "int64")
                storages.append((var, elements(list(value.args[0].values)) * itemsize))
        return storages

    def _plan_scratch(self, scratch: Any, room: Var) -> None:
        """Give every storage its place in the scratch, or answer how large it has to be."""
        used: Expr = tirx.const(0, "int64")
        for var, nbytes in self._storages():
            self.pointers[var] = self._in_scratch(scratch, used)
            lines = emit.ceil_div(self._known(nbytes), ALIGNMENT)
            used = used + lines * tirx.const(ALIGNMENT, "int64")
        emit.when(room < used, lambda: T.Return(tirx.const(0, "int64") - used))

    def _in_scratch(self, scratch: Any, offset: Expr) -> Expr:
        return tirx.address_of(scratch[offset])

    def _arguments(self) -> list[Any]:
        return [
            self._tensor(given.name, given.dims, given.dtype) for given in self.entry.spec.inputs
        ]

    def _tensor(self, name: str, dims: Sequence[int | str], dtype: str) -> Any:
        shape = [extent(dim, self.symbols) for dim in dims]
        return T.arg(name, T.buffer(shape, dtype, align=np.dtype(dtype).itemsize))

    def _bindings(self) -> list[Any]:
        return [b for block in self.planned.body.blocks for b in block.bindings]

    def _root(self, var: Any) -> Any:
        while var in self.alias:
            var = self.alias[var]
        return var

    def _find_aliases(self) -> None:
        """Note which variables are others under another name or in another shape."""
        for binding in self._bindings():
            value = binding.value
            if isinstance(value, relax.Var):
                self.alias[binding.var] = value
            elif isinstance(value, relax.Call) and _op_name(value) == "relax.reshape":
                self.alias[binding.var] = value.args[0]

    def _bind_outputs(self, outputs: list[Any]) -> None:
        """Let the kernels that make the results write into the caller's buffers."""
        for var, buffer in zip(self._results(), outputs, strict=True):
            self.pointers[self._root(var)] = buffer.data

    def _results(self) -> list[Any]:
        result = self.planned.body.body
        return list(result.fields) if isinstance(result, relax.Tuple) else [result]

    def _find_checks(self) -> None:
        for binding in self._bindings():
            name = _kernel_name(binding.value)
            if name in self.kernels:
                self.checks += self._checks_of(binding.value, self.kernels[name])
        self.next_flag = 0

    def _flags(self) -> Any:
        self._find_checks()
        if not self.checks:
            return None
        flags = T.alloc_buffer((len(self.checks),), "int32")
        for i in range(len(self.checks)):
            T.buffer_store(flags, tirx.const(0, "int32"), [i])
        return flags

    def _checks_of(self, call: relax.Call, lowered: Lowered) -> list[dict[str, Any]]:
        checks = []
        for check in lowered.kernel.checks:
            argument = 1 if check["kind"] == "offsets" else 0
            position = self.inputs[self._root(call.args[argument])]
            extra = {"input": position}
            if check["kind"] == "offsets":
                extra["indices_input"] = self.inputs[self._root(call.args[0])]
            checks.append({**check, **extra})
        return checks

    def _write_binding(self, binding: Any, flags: Any) -> None:
        var, value = binding.var, binding.value
        if not isinstance(value, relax.Call):
            return
        op = _op_name(value)
        if op == "relax.memory.alloc_tensor" and var not in self.pointers:
            self.pointers[var] = self.pointers[value.args[0]]
        elif op is None and _kernel_name(value) is not None:
            self._call_kernel(value, flags)

    def _call_kernel(self, call: relax.Call, flags: Any) -> None:
        name = _kernel_name(call)
        pointers = [self.pointers[self._root(argument)] for argument in call.args]
        shapes = [self._shape(argument) for argument in call.args]
        if name == COPY:
            dtype = str(call.args[0].ty.dtype)
            more = [self.threads] if self.copies_take_threads else []
            emit.call(self.copies[dtype], *pointers, elements(shapes[0]), *more)
            return
        kernel = self.kernels[str(name)].kernel
        for _ in kernel.checks:
            pointers.append(self._flag_pointer(flags, self.next_flag))
            self.next_flag += 1
        emit.call(kernel.entry, *pointers, *kernel.scalars(shapes), self.threads)

    def _flag_pointer(self, flags: Any, i: int) -> Expr:
        return tirx.address_of(flags[i])

    def _shape(self, var: Any) -> list[Expr]:
        return [self._known(size) for size in var.ty.shape.values]

    def _known(self, size: Expr) -> Expr:
        """A size in the symbols of this function, which go by the same names."""
        return structural_map(size, (Var, lambda var: self.symbols.get(var.name, var)))


def _op_name(call: relax.Call) -> str | None:
    op = call.op
    return str(op.name) if hasattr(op, "name") and not isinstance(op, relax.ExternFunc) else None


def _kernel_name(value: Any) -> str | None:
    if isinstance(value, relax.Call) and isinstance(value.op, relax.ExternFunc):
        return str(value.op.global_symbol)
    return None
