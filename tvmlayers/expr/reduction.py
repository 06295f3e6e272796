"""Sums along a contiguous axis, kept in the lanes of a vector until the end."""

import operator
from collections.abc import Callable

from tvm import te
from tvm.ir import Expr


def lane_sums(
    shape: tuple[Expr | int, ...],
    k: int,
    lanes: int,
    term: Callable[..., Expr],
    name: str,
) -> Callable[..., Expr]:
    """Function of an index into `shape` that gives sum over s < k of term(*index, s).

    Makes a stage `name` of shape (*shape, lanes) with partial sums where k has a whole vector; the
    lanes are then added as a tree, the rest of k one by one.
    """
    steps = k // lanes
    if steps:
        step = te.reduce_axis((0, steps), f"{name}_step")
        acc = te.compute(
            (*shape, lanes),
            lambda *i: te.sum(term(*i[:-1], step * lanes + i[-1]), axis=step),
            name=name,
        )

    def total(*index: Expr) -> Expr:
        terms = [term(*index, s) for s in range(steps * lanes, k)]
        if steps:
            terms.append(tree([acc[(*index, lane)] for lane in range(lanes)]))
        return tree(terms)

    return total


def tree(terms: list[Expr], combine: Callable[[Expr, Expr], Expr] = operator.add) -> Expr:
    """At least one term, combined two by two; their sum if nothing else is said."""
    while len(terms) > 1:
        half = (len(terms) + 1) // 2
        low, high = terms[:half], terms[half:]
        terms = [combine(low[i], high[i]) if i < len(high) else low[i] for i in range(half)]
    return terms[0]
