"""MetaSchedule's parts as both searches use them: quick to set up, and the same from one seed."""

from __future__ import annotations

import logging
import sys
from typing import Any

import numpy as np
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule import _ffi_api
from tvm.s_tir.meta_schedule.logging import get_logging_func

from tvmlayers.errors import MissingDependencyError, TuneError
from tvmlayers.tune.outcome import Outcome

BATCH = 8
# Trials before the cost model is believed.
WARM_UP = 2 * BATCH


class Context(ms.TuneContext):  # type: ignore[misc]
    """A TuneContext that is made without importing all tensor intrinsics, which takes 12 s."""

    def __init__(self, mod: Any, target: Any, generator: Any, strategy: Any, seed: int) -> None:
        logger = logging.getLogger("tvmlayers.tune")
        self.__init_handle_by_constructor__(
            _ffi_api.TuneContext,
            mod,
            target,
            generator,
            strategy,
            "tvmlayers",
            1,  # thread: the candidates then follow from the seed alone
            seed % (2**31 - 2) + 1,
            get_logging_func(logger),
        )
        _ffi_api.TuneContextInitialize(self)


def cost_model(extractor: Any = "per-store-feature") -> Any:
    """A gradient-boosted model on the features of `extractor`, the same for the same trials."""
    if sys.flags.optimize > 1:
        raise TuneError("tuning needs xgboost, which needs its docstrings: leave -OO out")
    try:
        import xgboost  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "tuning needs xgboost: pip install 'tvmlayers[tune]'"
        ) from error
    return ms.cost_model.XGBModel(
        extractor=extractor,
        num_warmup_samples=WARM_UP,
        early_stopping_rounds=20,
        verbose_eval=0,
        adaptive_training=False,
        num_tuning_cores=1,
    )


def result_of(outcome: Outcome) -> Any:
    """The outcome as MetaSchedule takes it."""
    if outcome.microseconds is None:
        return ms.runner.RunnerResult(None, outcome.cause)
    return ms.runner.RunnerResult([outcome.microseconds * 1e-6], None)


def commit(database: Any, workload: Any, context: Context, candidate: Any, result: Any) -> None:
    """Put the time of a candidate into MetaSchedule's database."""
    record = ms.database.TuningRecord(
        candidate.sch.trace, workload, result.run_secs, context.target, candidate.args_info
    )
    database.commit_tuning_record(record)


class RandomState:
    """NumPy's global random numbers, from a seed inside and as they were outside.

    The cost model draws from them before it has learned anything.
    """

    def __init__(self, seed: int) -> None:
        self._inside = np.random.RandomState(seed % 2**32).get_state()
        self._outside: Any = None

    def __enter__(self) -> None:
        self._outside = np.random.get_state()
        np.random.set_state(self._inside)

    def __exit__(self, *_: object) -> None:
        self._inside = np.random.get_state()
        np.random.set_state(self._outside)
