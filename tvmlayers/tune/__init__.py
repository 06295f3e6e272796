"""Tuning: `tvmlayers.tune(model)` measures candidates and writes records that `compile` uses.

The package is callable, so that it and the function can share their name.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from tvmlayers.tune.api import RUNNERS, TuningInterrupted, tune
from tvmlayers.tune.data import Data
from tvmlayers.tune.effort import EFFORTS
from tvmlayers.tune.progress import Progress, State
from tvmlayers.tune.result import TuneResult, WorkloadResult

__all__ = [
    "EFFORTS",
    "RUNNERS",
    "Data",
    "Progress",
    "State",
    "TuneResult",
    "TuningInterrupted",
    "WorkloadResult",
    "tune",
]


class _Callable(ModuleType):
    """This package, called as its function."""

    def __call__(self, *args: Any, **named: Any) -> TuneResult:
        return tune(*args, **named)


sys.modules[__name__].__class__ = _Callable
