"""Which way is taken through a kernel's space: a tuned record's, a neighbour's or the analytic."""

from tvmlayers.schedule.analytic import (
    CHAIN_GRAIN_KMACS,
    CHAIN_ROWS,
    GRAIN_KIB,
    analytic,
    chain_block,
    vector_tile,
)
from tvmlayers.schedule.select import ANALYTIC, GIVEN, Regime, Selector, by_choice

__all__ = [
    "ANALYTIC",
    "CHAIN_GRAIN_KMACS",
    "CHAIN_ROWS",
    "GIVEN",
    "GRAIN_KIB",
    "Regime",
    "Selector",
    "analytic",
    "by_choice",
    "chain_block",
    "vector_tile",
]
