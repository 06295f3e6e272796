"""A kernel: private functions of one node of the graph, and how the caller calls them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm import s_tir, te
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc

from tvmlayers.build.private import private_function
from tvmlayers.expr.expression import Expression

Functions = dict[GlobalVar, PrimFunc]
PRIVATE = "tvmlayers.private"


@dataclass
class Kernel:
    """What runs for one node.

    functions: all it needs, private; entry: the one to call, as
    `entry(pointers of inputs, weights and result, flag pointers, scalars, threads)`;
    scalars: their values from the shapes of the inputs; checks: what each flag means when it is
    set, rows of the manifest's `checks` without the entry's inputs; report: a row of
    `Compiled.report`.
    """

    name: str
    entry: GlobalVar
    functions: Functions
    scalars: Callable[[Sequence[Sequence[Expr]]], list[Expr]]
    checks: tuple[dict[str, Any], ...] = ()
    report: dict[str, Any] = field(default_factory=dict)


def core(
    name: str,
    expression: Expression,
    schedule: Callable[[s_tir.Schedule], None],
    **guards: Any,
) -> tuple[GlobalVar, PrimFunc]:
    """One expression, scheduled and made private. guards: see `private_function`."""
    function = te.create_prim_func([*expression.tensors, *expression.sizes])
    sch = s_tir.Schedule(function, debug_mask="none")
    schedule(sch)
    private = private_function(expression, sch.mod["main"], **guards)
    return GlobalVar(name), private.with_attr(PRIVATE, True)
