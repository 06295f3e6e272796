"""The record that serves a workload: its own, or the nearest whose decisions are legal there."""

import math
from collections.abc import Iterable

from tvmlayers.records import Record
from tvmlayers.spaces import choices_of, space_of
from tvmlayers.spaces.choices import Decisions, is_legal
from tvmlayers.spaces.gemm import Tile
from tvmlayers.targets import CudaTarget, Target
from tvmlayers.workload import Workload

# Farther than this, in doublings over all sizes, the analytic choice knows better.
MOST_DOUBLINGS = 2.0
# What another activation or mode counts, in doublings; another dtype, or weights that are kept in
# other bits, are of no use.
_OTHER_TRAIT = 0.25
# Up to this many rows every row counts on a CPU: what fits 8 rows does not fit 9.
_FEW_ROWS = 48


def exact(
    workload: Workload, target: Target | CudaTarget, records: Iterable[Record]
) -> tuple[Record, Decisions] | None:
    """The record of this very workload, if there is one and its decisions are legal."""
    space = space_of(workload.kind, target)
    for record in records:
        is_its_own = record.workload == workload and record.space == space
        if is_its_own and is_legal(record.decisions, choices_of(workload, target)):
            return record, record.decisions
    return None


def nearest(
    workload: Workload,
    target: Target | CudaTarget,
    records: Iterable[Record],
    few_rows: int = _FEW_ROWS,
) -> tuple[Record, Decisions] | None:
    """The nearest record whose decisions are legal for `workload`; none for AMX, whose
    needs depend on the very sizes. few_rows: up to so many every row counts."""
    ranked = sorted(
        (
            (distance(workload, each.workload), each)
            for each in records
            if _tells(each, workload, few_rows)
        ),
        key=lambda pair: pair[0],
    )
    near = [record for doublings, record in ranked if doublings <= MOST_DOUBLINGS]
    if not near:
        return None
    choices = choices_of(workload, target)
    for record in near:
        is_legal_here = is_legal(record.decisions, choices) and not (
            isinstance(target, Target) and unit_of(record.decisions)
        )
        if record.space == space_of(workload.kind, target) and is_legal_here:
            return record, record.decisions
    return None


def unit_of(decisions: Decisions) -> str:
    """The unit that the decisions of a dense layer are for; "" for all others."""
    return Tile.of(decisions).unit if "tile" in decisions else ""


def distance(a: Workload, b: Workload) -> float:
    """The distance of two workloads: doublings of every size, and a little for other traits."""
    if a.kind != b.kind or a["dtype"] != b["dtype"] or a.stored != b.stored:
        return math.inf
    sizes = sum(abs(math.log2(x / y)) for (_, x), (_, y) in zip(a.sizes, b.sizes, strict=True))
    traits = sum(x != y for x, y in zip(a.traits, b.traits, strict=True))
    return sizes + _OTHER_TRAIT * traits


def is_near(a: Workload, b: Workload) -> bool:
    """Whether one of them has something to say for the other."""
    return distance(a, b) <= MOST_DOUBLINGS


def _tells(record: Record, workload: Workload, few_rows: int) -> bool:
    """Whether a neighbour's number of rows is near enough: of few rows, every one counts."""
    own, wanted = record.workload.batch, workload.batch
    return own == wanted or workload.kind != "dense" or min(own, wanted) > few_rows
