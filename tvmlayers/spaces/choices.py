"""How a schedule function chooses: MetaSchedule's sampling, the decision given or left open."""

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import s_tir

# Annotations of the loops that read a panel: which goes over tiles of rows, which over blocks of k;
# and of the one over k: how many steps ahead of their use the rows of the panel are asked for, how
# many cache lines of the next block with each step, the steps of a block (0: there is none), in how
# many places along k the loop reads, how many columns and how many steps at each.
PANEL_READS = tuple(
    f"tvmlayers.{name}"
    for name in (
        "tile",
        "block",
        "prefetch",
        "next_lines",
        "k_block",
        "streams",
        "columns",
        "steps",
    )
)
TILE_LOOP, BLOCK_LOOP, PREFETCH, NEXT_LINES, K_BLOCK, STREAMS, COLUMNS, STEPS = PANEL_READS
# Annotation of a loop that becomes a function of its own: the many constants of a long activation
# would else be kept in registers that the loop over k before it needs.
OUTLINED = "tvmlayers.outlined"
# Annotation of a loop that adds to accumulators: the steps that it takes in all, 0 for one with
# each iteration; the steps of a block that is summed by itself; how many blocks make up the next
# larger one, and so on. See `codegen.partial_sums`.
SUM_BLOCKS = "tvmlayers.sum_blocks"

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
