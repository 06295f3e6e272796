"""One host function for each entry point: the planned Relax function without its virtual machine.

A Relax function in destination-passing style is a straight line of allocations and calls. Written
out as one PrimFunc it costs the caller a single call: the arguments are checked once, kernels get
bare pointers, and what passes between them lies in one scratch buffer that the caller keeps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc, Var
from tvm.tirx.script.builder import ir as T
from tvm_ffi import structural_map

from tvmlayers.codegen import emit
from tvmlayers.codegen.chain import Call, Chain, find_chain
from tvmlayers.codegen.cpu import Lowered, elements
from tvmlayers.codegen.cpu.kernel import Functions
from tvmlayers.codegen.graph import EntryFunction, extent
from tvmlayers.codegen.weights import ALIGNMENT, ArenaPlan
from tvmlayers.dtypes import numpy_dtype, passed_as
from tvmlayers.runtime.signature import LAST_STATUS_BIT
from tvmlayers.schedule import CHAIN_ROWS
from tvmlayers.targets import CudaTarget, Target


@dataclass(frozen=True)
class Forward:
    """An entry point: its host function, private ones of its own, what the bits of its status mean,
    and whether it takes scratch."""

    function: PrimFunc
    private: Functions
    checks: list[dict[str, Any]]
    needs_scratch: bool


def forward_function(
    planned: relax.Function,
    entry: EntryFunction,
    kernels: dict[str, Lowered],
    arena: ArenaPlan,
    target: Target,
) -> Forward:
    """One entry point, compiled for `target`.

    The function is `f(*inputs, *outputs, arena, threads, [scratch]) -> status`, with scratch where
    there are intermediates. Bit i of the status is set when check i failed; the last bit stands for
    all others. A negative status is minus the bytes of scratch that the call needs, which were not
    there; nothing was computed then.
    """
    writer = ForwardWriter(planned, entry, kernels, arena, target)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(entry.spec.symbol)
        T.func_attr({"global_symbol": entry.spec.symbol, "tirx.noalias": False})
        T.func_ret(emit.INT64)
        writer.write()
    return Forward(builder.get(), writer.private, writer.checks, writer.needs_scratch)


class ForwardWriter:
    """Writes one entry point; `codegen.cuda.forward` writes the same line for a GPU."""

    def __init__(
        self,
        planned: relax.Function,
        entry: EntryFunction,
        kernels: dict[str, Lowered],
        arena: ArenaPlan,
        target: Target | CudaTarget,
    ) -> None:
        self.planned, self.entry, self.kernels = planned, entry, kernels
        self.arena, self.target = arena, target
        self.symbols: dict[str, Var] = {}
        self.pointers: dict[Any, Expr] = {}
        self.alias: dict[Any, Any] = {}
        self.checks: list[dict[str, Any]] = []
        self.private: Functions = {}
        self._find_aliases()
        self.needs_scratch = bool(self._storages())

    def write(self) -> None:
        """The body: arguments, then every call of the Relax function in turn."""
        inputs = self._arguments()
        outputs = [
            self._tensor(f"out{i}", o["shape"], o["dtype"])
            for i, o in enumerate(self.entry.outputs)
        ]
        arena = T.arg("arena", T.buffer((self.arena.arena_bytes,), "uint8", align=64))
        self.threads = T.arg("threads", Var("threads", "int32"))
        calls, flags = self._calls(inputs)
        weights = self.planned.params[len(inputs) :]
        results = [self._root(var) for var in self._results()]
        assert isinstance(self.target, Target)
        chain = find_chain(calls, frozenset(weights), results, self.target)
        if self.needs_scratch:
            self._plan_scratch(calls, chain)
        for param, buffer in zip(self.planned.params, inputs, strict=False):
            self.pointers[param] = buffer.data
        for param, name in zip(weights, self.entry.weights, strict=True):
            start = tirx.const(self.arena.offsets[name], "int64")
            self.pointers[param] = tirx.address_of(arena[start])
        # The kernels that make the results write into the caller's buffers.
        for root, buffer in zip(results, outputs, strict=True):
            self.pointers[root] = buffer.data
        self._write_calls(calls, chain)
        status: Expr = tirx.const(0, "int64")
        for i in range(len(self.checks)):
            bit = tirx.const(min(i, LAST_STATUS_BIT), "int64")
            status = tirx.bitwise_or(status, tirx.Cast("int64", flags[i]) << bit)
        T.Return(status)

    def _write_calls(self, calls: Sequence[Call], chain: Chain | None) -> None:
        """Layer by layer, but for the chain where enough rows come."""
        alone = calls[: -len(chain.calls)] if chain is not None else calls
        for call in alone:
            self._write_call(call)
        if chain is None:
            return
        name, functions = chain.functions(f"{self.entry.spec.symbol}_chain")
        self.private |= functions

        def chained() -> None:
            emit.call(
                name,
                *(self.pointers[value] for value in chain.outside()),
                *chain.flags(),
                *chain.sizes(),
                self.chain_scratch,
                self.threads,
            )

        def one_by_one() -> None:
            for call in chain.calls:
                self._write_call(call)

        emit.chain([(self._is_chained(chain), chained), (None, one_by_one)])

    def _is_chained(self, chain: Chain) -> Expr:
        return chain.rows >= emit.i64(CHAIN_ROWS)

    def _write_call(self, call: Call) -> None:
        pointers = [self.pointers[value] for value in call.values]
        scalars = call.kernel.scalars(call.shapes)
        emit.call(call.kernel.entry, *pointers, *call.flags, *scalars, self.threads)

    def _storages(self) -> dict[Any, Expr]:
        """The bytes of all that has to be stored between the kernels."""
        results = {self._root(var) for var in self._results()}
        storages: dict[Any, Expr] = {}
        for binding in self._bindings():
            var, value = binding.var, binding.value
            op = _op_name(value) if isinstance(value, relax.Call) else None
            if op == "relax.memory.alloc_storage":
                (storages[var],) = value.args[0].values
            elif op == "relax.builtin.alloc_tensor" and var not in results:
                itemsize = tirx.const(numpy_dtype(str(var.ty.dtype)).itemsize, "int64")
                storages[var] = elements(list(value.args[0].values)) * itemsize
        return storages

    def _plan_scratch(self, calls: Sequence[Call], chain: Chain | None) -> None:
        """Give every storage its place in the scratch, or answer how large it has to be.

        First comes what calls outside the chain touch, then what the chain needs: for each thread
        where it is gone over by rows, or the storages of its layers.
        """
        room = Var("room", "int64")
        scratch = T.arg("scratch", T.buffer((room,), "uint8", align=ALIGNMENT))
        storages = self._storages()
        tensors: dict[Any, Any] = {}  # to the storages that they lie in
        for binding in self._bindings():
            storage = storage_of(binding)
            if storage is not None:
                tensors[binding.var] = storage
        inner = {tensors.get(value, value) for value in (chain.inner if chain is not None else ())}
        for call in calls[: -len(chain.calls)] if chain is not None else calls:
            inner -= {tensors.get(value, value) for value in call.values}
        used: Expr = tirx.const(0, "int64")

        def place(var: Any, nbytes: Expr) -> None:
            nonlocal used
            self.pointers[var] = tirx.address_of(scratch[used])
            lines = emit.ceil_div(self._known(nbytes), ALIGNMENT)
            used = used + lines * tirx.const(ALIGNMENT, "int64")

        for var, nbytes in storages.items():
            if var not in inner:
                place(var, nbytes)
        before = used
        for var, nbytes in storages.items():
            if var in inner:
                place(var, nbytes)
        if chain is not None:
            self.chain_scratch = tirx.address_of(scratch[before])
            own = before + emit.i64(self.threads) * emit.i64(chain.scratch_bytes())
            used = emit.bound(tirx.Select(self._is_chained(chain), own, used))
        for var, storage in tensors.items():
            if storage in self.pointers:
                self.pointers[var] = self.pointers[storage]
        emit.when(room < used, lambda: T.Return(tirx.const(0, "int64") - used))

    def _arguments(self) -> list[Any]:
        return [
            self._tensor(given.name, given.dims, given.dtype) for given in self.entry.spec.inputs
        ]

    def _tensor(self, name: str, dims: Sequence[int | str], dtype: str) -> Any:
        shape = [extent(dim, self.symbols) for dim in dims]
        passed, size = passed_as(dtype), numpy_dtype(dtype).itemsize
        return T.arg(name, T.buffer(shape, passed, align=size))

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

    def _results(self) -> list[Any]:
        result = self.planned.body.body
        return list(result.fields) if isinstance(result, relax.Tuple) else [result]

    def _calls(self, inputs: Sequence[Any]) -> tuple[list[Call], Any]:
        """The straight line, and the buffer of flags that its kernels report through."""
        positions = {self.planned.params[i]: i for i in range(len(inputs))}
        found = [
            (self.kernels[name].kernel, binding.value)
            for binding in self._bindings()
            for name in [_kernel_name(binding.value)]
            if name is not None
        ]
        count = sum(len(kernel.checks) for kernel, _ in found)
        flags = self._flags(count)
        calls = []
        for kernel, value in found:
            values = [self._root(argument) for argument in value.args]
            own = [self._flag(flags, len(self.checks) + i) for i in range(len(kernel.checks))]
            for check in kernel.checks:
                self.checks.append(_check_on(check, values, positions))
            dtypes = [str(argument.ty.dtype) for argument in value.args]
            shapes = [self._shape(argument) for argument in value.args]
            calls.append(Call(kernel, values, shapes, dtypes, own))
        return calls, flags

    def _flags(self, count: int) -> Any:
        if not count:
            return None
        flags = T.alloc_buffer((count,), "int32")
        for i in range(count):
            T.buffer_store(flags, tirx.const(0, "int32"), [i])
        return flags

    def _flag(self, flags: Any, i: int) -> Expr:
        return tirx.address_of(flags[i])

    def _shape(self, var: Any) -> list[Expr]:
        return [self._known(size) for size in var.ty.shape.values]

    def _known(self, size: Expr) -> Expr:
        """A size in the symbols of this function, which go by the same names."""
        return structural_map(size, (Var, lambda var: self.symbols.get(var.name, var)))


def _check_on(
    check: dict[str, Any], values: Sequence[Any], positions: dict[Any, int]
) -> dict[str, Any]:
    """A kernel's check with the places of the model's inputs that it is about."""
    if check["kind"] == "offsets":
        indices, offsets = (positions[value] for value in values[:2])
        return {**check, "input": offsets, "indices_input": indices}
    return {**check, "input": positions[values[0]]}


def storage_of(binding: Any) -> Any:
    """The storage that a bound tensor lies in; None where the binding is no tensor of one."""
    is_tensor = _op_name(binding.value) == "relax.memory.alloc_tensor"
    return binding.value.args[0] if is_tensor else None


def _op_name(call: Any) -> str | None:
    op: Any = getattr(call, "op", None)
    return str(op.name) if hasattr(op, "name") and not isinstance(op, relax.ExternFunc) else None


def _kernel_name(value: Any) -> str | None:
    if isinstance(value, relax.Call) and isinstance(value.op, relax.ExternFunc):
        return str(value.op.global_symbol)
    return None
