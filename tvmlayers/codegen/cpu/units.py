"""Work in units that threads share: whoever does a unit, and when, its result has the same bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tvm.ir import Expr, GlobalVar

from tvmlayers.codegen.cpu.kernel import Functions

Sizes = Mapping[str, Expr]


@dataclass
class Units:
    """A function `f(pointers, sizes, unit, units)` that does one of `units` independent parts.

    count: how many there are, from the sizes by name.
    """

    entry: GlobalVar
    functions: Functions
    count: Callable[[Sizes], Expr]
