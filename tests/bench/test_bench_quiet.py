"""Rows that others disturbed are timed again, as long as there is patience."""

from __future__ import annotations

import os
from typing import Any

import pytest
from clocks import Clock

pytest.importorskip("torch")

from bench import quiet, session
from bench.__main__ import chosen, parser
from bench.quiet import Patience, Quiet


def test_the_speed_is_that_of_the_slowest_cpu_by_what_was_best_more_than_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([[0.5, 0.1], [2.0, 3.0], [2.0, 2.0], [1.0, 2.0], [2.0, 2.0], [4.0, 2.5], [2, 1]])
    monkeypatch.setattr(quiet, "_loop_times", lambda: next(times))
    machine = Quiet()
    seconds = [machine.seconds() for _ in range(7)]
    assert seconds == [0.5, 3, 2, 2, 2, 4, 2]
    assert [machine.speed(each) for each in (0.5, 2, 4)] == [1, 1, 0.5]


def test_the_loop_runs_on_every_cpu_and_leaves_the_affinity_as_it_was() -> None:
    before = os.sched_getaffinity(0)
    assert len(quiet._loop_times()) == len(before)
    assert os.sched_getaffinity(0) == before


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (quiet, session):
        monkeypatch.setattr(module, "time", made)
    return made


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("patience", "turns"), [("0", 3), ("1", 5)])
def test_rows_that_others_disturbed_are_timed_again(
    patience: str, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Others are at work around and in the second and the third row when they are first timed.
    others, after = [False], [False]

    def loop() -> float:
        slow, after[0] = others[0] or after[0], False
        return 9.0 if slow else 1.0

    monkeypatch.setattr(quiet, "_loop_times", lambda: [loop()])
    monkeypatch.setattr(quiet, "_loop_time", lambda: 9.0 if others[0] else 1.0)
    monkeypatch.setattr(quiet, "BEST", 2)
    monkeypatch.setattr(quiet, "SLICE_PATIENCE", 0.0)
    first = ["1x3x5:linear", "2x3x5:linear", "3x3x5:linear"]
    timed: list[str] = []
    run = session.rows.run

    def note(case: Any, *more: Any) -> Any:
        others[0] = case.spec not in [first[0], *timed]
        timed.append(case.spec)
        try:
            return run(case, *more)
        finally:
            after[0], others[0] = others[0], False

    monkeypatch.setattr(session.rows, "run", note)
    options = ["--rounds", "1", "--no-limits", "--patience", patience]
    arguments = parser().parse_args(["dense", "--shapes", "1x3x5", "2x3x5", "3x3x5", *options])
    arguments.threads = 1
    made = session.Session(arguments)
    assert made.run(chosen(arguments)) == 0
    assert timed == [*first, *first[1:]][:turns]
    assert [row.case for row in made.rows] == first
    speeds = [1, 1, 1] if turns == 5 else [1, 1 / 9, 1 / 9]
    assert [row.speed for row in made.rows] == pytest.approx(speeds)


@pytest.mark.parametrize(
    ("around", "patience", "kept", "loop"),
    [
        pytest.param([(1, 1)], 60.0, 0, 1, id="quiet at once"),
        pytest.param([(1, 9), (1, 5), (1, 1)], 60.0, 2, 1, id="until it is quiet"),
        pytest.param([(9, 9)], -1.0, 0, 9, id="no patience"),
    ],
)
def test_a_slice_that_others_disturbed_is_made_again(
    around: list[tuple[int, int]],
    patience: float,
    kept: int,
    loop: int,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, after = (iter([float(times[i]) for times in around]) for i in range(2))
    machine = Quiet()
    monkeypatch.setattr(quiet, "_loop_times", lambda: [1.0])
    for _ in range(quiet.BEST):
        machine.seconds()
    monkeypatch.setattr(quiet, "_loop_times", lambda: [next(before)])
    monkeypatch.setattr(quiet, "_loop_time", lambda: next(after))
    waits = Patience(machine, clock.now + patience)
    made = iter(range(9))
    assert waits.slice(lambda: next(made)) == kept
    assert waits.loop() == loop


def test_of_slices_that_were_all_disturbed_the_least_is_kept(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "SLICE_PATIENCE", 0.05)
    machine = Quiet()
    monkeypatch.setattr(quiet, "_loop_times", lambda: [1.0])
    for _ in range(quiet.BEST):
        machine.seconds()
    after = iter([9.0, 4.0, 6.0])
    monkeypatch.setattr(quiet, "_loop_time", lambda: next(after))
    waits = Patience(machine, clock.now + 60)
    made: list[int] = []

    def make() -> int:
        clock.sleep(0.02)
        made.append(len(made))
        return made[-1]

    assert waits.slice(make) == 1
    assert len(made) == 3
    assert waits.loop() == 4


def test_a_measurement_bears_a_quarter_of_disturbed_slices(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "_loop_times", lambda: [1.0])
    loops = iter([9.0, 1.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr(quiet, "_loop_time", lambda: next(loops))
    waits = Patience(Quiet(), clock.now - 1)
    for _ in range(5):
        waits.slice(lambda: None)
    assert waits.loop() == 1
