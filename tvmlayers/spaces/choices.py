"""How a schedule function chooses: MetaSchedule's sampling, the decision given or left open."""

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import s_tir

# Annotations of a loop over k: how many steps ahead of their use the panel's rows are asked for,
# and in how many places along k the loop reads.
PREFETCH, STREAMS = "tvmlayers.prefetch_steps", "tvmlayers.streams"

Decision = int | float | str | bool
Decisions = Mapping[str, Decision]
# What a kernel may decide: the legal values of each choice, by name.
Choices = Mapping[str, Sequence[Decision]]


def choose(
    sch: s_tir.Schedule, name: str, candidates: Sequence[Decision], decisions: Decisions | None
) -> Any:
    """One of `candidates` as a random variable of `sch`; of names, the place of the one chosen.

    With `decisions` the one named there is taken (an analytic choice or a record); without, the
    choice is left open, so that a tuner samples and mutates it.
    """
    given = list(candidates)
    values = given if all(isinstance(each, int) for each in given) else list(range(len(given)))
    probabilities = [1.0 / len(given)] * len(given)
    if decisions is None:
        return sch.sample_categorical(values, probabilities)
    return sch.sample_categorical(values, probabilities, decision=given.index(decisions[name]))


def is_legal(decisions: Decisions, choices: Choices) -> bool:
    """Whether `decisions` decides exactly these choices, each on one of its candidates."""
    return decisions.keys() == choices.keys() and all(
        decisions[name] in candidates for name, candidates in choices.items()
    )
