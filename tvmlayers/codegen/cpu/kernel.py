"""A kernel: private functions of one node of the graph, and how the caller calls them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm import s_tir, te
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc, Var

from tvmlayers.codegen import emit
from tvmlayers.codegen.fuse import AnyLayer
from tvmlayers.codegen.private import private_function
from tvmlayers.dtypes import is_half
from tvmlayers.errors import ConfigError
from tvmlayers.expr.expression import Expression
from tvmlayers.expr.stored import KernelAs
from tvmlayers.layers.graph import SymbolicTensor
from tvmlayers.schedule import Regime
from tvmlayers.workload import KINDS, Workload

Shapes = Sequence[Sequence[Expr]]
Functions = dict[GlobalVar, PrimFunc]


@dataclass
class Kernel:
    """What runs for one node.

    functions: all it needs, private; entry: the one to call, as
    `entry(pointers of inputs, weights and result, flag pointers, scalars, threads)`;
    scalars: their values from the shapes of the inputs; checks: what each flag means when it is
    set, rows of the manifest's `checks` without the entry's inputs; report: a row of
    `Compiled.report`; moved: the bytes that it moves, from the shapes, where its report does not
    say what an item costs.
    """

    name: str
    entry: GlobalVar
    functions: Functions
    scalars: Callable[[Shapes], list[Expr]]
    checks: tuple[dict[str, Any], ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    moved: Callable[[Shapes], Expr] | None = None


@dataclass(frozen=True)
class Use:
    """One use of a layer in one entry point: its layer, its symbolic inputs and their roles.

    index_dtype: the dtype that this entry takes indices in; leaves: the output is a result of the
    model, and no kernel reads it.
    """

    layer: AnyLayer
    inputs: tuple[SymbolicTensor, ...]
    roles: tuple[str, ...]
    output: SymbolicTensor
    index_dtype: str
    leaves: bool

    def dtype(self, i: int) -> str:
        """The dtype of input i in this entry, as the kernel takes it: floats as the output."""
        is_index = self.inputs[i].dtype.startswith(("int", "uint"))
        return self.index_dtype if is_index else self.output.dtype

    def fixed(self, axis: int, i: int = 0) -> int:
        """The length of an axis of input i, which the layer needs to be a number."""
        size = self.inputs[i].shape[axis]
        if size is None:
            raise ConfigError(
                f"{self.layer.describe()} needs a fixed length on axis {axis} of its inputs, "
                f"got {[tensor.shape for tensor in self.inputs]}; give Input(shape=...) a number"
            )
        return size


@dataclass(frozen=True)
class Lowered:
    """A kernel and what it takes: its inputs, the index tensors behind their masks if takes_masks,
    and the weights, by arena name.

    then: a second kernel, which takes the first one's result, of dtype `between`, and gives the
    layer's.
    """

    kernel: Kernel
    weights: tuple[str, ...]
    takes_masks: bool = False
    then: Lowered | None = None
    between: str = ""


def core(
    name: str,
    expression: Expression,
    schedule: Callable[[s_tir.Schedule], None],
    **guards: Any,
) -> tuple[GlobalVar, PrimFunc]:
    """One expression, scheduled and made private. guards: more for `private_function`."""
    function = te.create_prim_func([*expression.tensors, *expression.sizes])
    sch = s_tir.Schedule(function, debug_mask="none")
    schedule(sch)
    return GlobalVar(name), emit.noinline(private_function(expression, sch.mod["main"], **guards))


def in_halves(expression: Expression, dtype: str, *, but: Collection[str] = ()) -> dict[str, str]:
    """What `private_function` takes as `kept`: all float32 tensors but those named, in dtype where
    that is a half."""
    if not is_half(dtype):
        return {}
    names = {tensor.op.name for tensor in expression.tensors if tensor.dtype == "float32"}
    return dict.fromkeys(sorted(names.difference(but)), dtype)


def tensor_arguments(
    dtype: str, use_bias: bool, kept: KernelAs | None = None, *, out: str | None = None
) -> tuple[Var, Var, list[Var], Var]:
    """The parameters x, w, [scales], [b] and out of the function being written. kept: how w is, and
    out: the dtype of out, where they are not as x is."""
    x = emit.argument("x", f"*{dtype}")
    w = emit.argument("w", f"*{kept.dtype if kept else dtype}")
    names = ["scales"] * (kept is not None and kept.has_scales) + ["b"] * use_bias
    columns = [emit.argument(name, f"*{dtype}") for name in names]
    return x, w, columns, emit.argument("out", f"*{out or dtype}")


def at_column(by_column: Sequence[Var], column: Expr | int, kept: KernelAs) -> list[Expr]:
    """[scales] and [b] as a function over panels from a column on takes them."""
    counts = [max(kept.groups, 1)] * kept.has_scales
    counts += [1] * (len(by_column) - len(counts))
    return [
        emit.offset(pointer, column * count)
        for pointer, count in zip(by_column, counts, strict=True)
    ]


def report(
    workload: Workload,
    regimes: Sequence[Regime],
    layer: str,
    *,
    flops: int,
    bytes_per_item: int,
    weight_bytes: int = 0,
) -> dict[str, Any]:
    """The row of `Compiled.report`: what the kernel is, what an item of its batch costs, and where
    its decisions come from, by size of batch.

    An item is one of the workload's batch: a row, an index, a bag. bytes_per_item: moved for each,
    weight_bytes: read once a call.
    """
    described = workload.to_dict()
    batch = KINDS[workload.kind].batch
    del described[batch]
    return {
        **described,
        "layer": layer,
        "batch": batch,
        "schedule": _source(regimes),
        "flops_per_item": flops,
        "bytes_per_item": bytes_per_item,
        "weight_bytes": weight_bytes,
        "regimes": [regime.describe() for regime in regimes],
    }


def _source(regimes: Sequence[Regime]) -> str:
    """All that the decisions come from, in a word each."""
    return ", ".join(dict.fromkeys(regime.source.split()[0] for regime in regimes))


def elements(shape: Sequence[Expr]) -> Expr:
    """The product of all axes, int64."""
    total: Expr = emit.i64(1)
    for size in shape:
        total = total * axis(size)
    return total


def axis(size: Expr | int) -> Expr:
    """One axis of a shape, int64."""
    return emit.i64(size) if isinstance(size, int) else size
