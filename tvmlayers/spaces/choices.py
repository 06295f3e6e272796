"""How a schedule function chooses: MetaSchedule's sampling, the decision given or left open."""

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import s_tir

# Annotation of a loop over k: how many steps ahead of their use the panel's rows are asked for.
PREFETCH = "tvmlayers.prefetch_steps"

Decisions = Mapping[str, int]


def choose(
    sch: s_tir.Schedule, name: str, candidates: Sequence[int], decisions: Decisions | None
) -> Any:
    """One of `candidates`, as a random variable of `sch`.

    With `decisions` the one named there is taken (an analytic choice or a record); without, the
    choice is left open, so that a tuner samples and mutates it.
    """
    probabilities = [1.0 / len(candidates)] * len(candidates)
    if decisions is None:
        return sch.sample_categorical(list(candidates), probabilities)
    return sch.sample_categorical(
        list(candidates), probabilities, decision=list(candidates).index(decisions[name])
    )
