"""Which way is taken through a kernel's space: a tuned record's, a neighbour's or the analytic."""

from tvmlayers.schedule.analytic import GRAIN_KIB, analytic
from tvmlayers.schedule.select import ANALYTIC, GIVEN, Regime, Selector, by_choice

__all__ = ["ANALYTIC", "GIVEN", "GRAIN_KIB", "Regime", "Selector", "analytic", "by_choice"]
