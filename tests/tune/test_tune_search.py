from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fake_sessions import ratio

from tvmlayers import targets
from tvmlayers.schedule import analytic
from tvmlayers.spaces.choices import Decisions
from tvmlayers.tune.cases import parse
from tvmlayers.tune.outcome import Key, Outcome, key_of
from tvmlayers.tune.search import Search, explore
from tvmlayers.tune.space import Space

TARGET = targets.resolve("x86-64-v3")
DENSE = parse("dense", "128x768x3072:gelu").workload
SOFTMAX = parse("softmax", "256x1000").workload


def table(batch: Sequence[Decisions]) -> Iterator[tuple[int, Outcome]]:
    """Measured times by decisions, as if from a table; one in ten fails."""
    for place, decisions in enumerate(batch):
        time = ratio(dict(decisions))
        yield place, Outcome(time) if time > 0.6 else Outcome(None, "crashed: signal 11")


def run(
    workload: Any, trials: int, seed: int = 0, known: dict[Key, Outcome] | None = None
) -> list[Decisions]:
    """The decisions that were measured, in order."""
    space = Space.of(workload, TARGET)
    measured: list[Decisions] = []
    explore(
        Search(space, TARGET, analytic(workload, TARGET), seed),
        table,
        trials=trials,
        known={} if known is None else known,
        tell=lambda decisions, _: measured.append(decisions),
    )
    return measured


def test_first_trial_is_the_analytic_choice() -> None:
    assert run(DENSE, 1) == [analytic(DENSE, TARGET)]


def test_no_decisions_are_measured_twice() -> None:
    measured = run(DENSE, 64)
    assert len({key_of(decisions) for decisions in measured}) == len(measured) == 64


def test_a_small_space_is_measured_whole_and_then_ends() -> None:
    space = Space.of(SOFTMAX, TARGET)
    measured = run(SOFTMAX, 10 * space.size)
    assert {key_of(each) for each in measured} == {key_of(each) for each in space.all()}
    assert len(measured) == space.size


def test_one_seed_gives_one_search_and_another_seed_another() -> None:
    first = run(DENSE, 40, seed=3)
    assert run(DENSE, 40, seed=3) == first
    assert run(DENSE, 40, seed=4) != first


@pytest.mark.parametrize("done", [1, 5, 17, 39])
def test_what_is_known_is_not_measured_and_the_search_goes_the_same_way(done: int) -> None:
    whole = run(DENSE, 40)
    outcomes = dict(table(whole))
    known = {key_of(each): outcomes[place] for place, each in enumerate(whole[:done])}
    assert run(DENSE, 40, known=known) == whole[done:]


def test_trials_known_from_elsewhere_count() -> None:
    others = list(Space.of(DENSE, TARGET).all())[:30]
    known = {key_of(each): Outcome(1.0) for each in others}
    assert len(run(DENSE, 32, known=known)) == 2


def test_the_search_does_better_than_chance() -> None:
    target, space = TARGET, Space.of(DENSE, TARGET)
    wanted = {name: values[-1] for name, values in space.choices if len(values) > 3}

    def steps(batch: Sequence[Decisions]) -> Iterator[tuple[int, Outcome]]:
        for place, decisions in enumerate(batch):
            wrong = sum(decisions[name] != value for name, value in wanted.items())
            yield place, Outcome(1.0 + wrong)

    known: dict[Key, Outcome] = {}
    search = Search(space, target, analytic(DENSE, target), 0)
    explore(search, steps, trials=128, known=known, tell=lambda *_: None)
    assert min(outcome.time for outcome in known.values()) == 1.0
    times = [outcome.time for outcome in known.values()]
    assert sum(times[-24:]) / 24 < sum(times[:24]) / 24 - 1.0
