"""Rows that others disturbed are timed again, as long as there is patience."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch")

from bench import quiet, session
from bench.__main__ import chosen, parser
from bench.quiet import Quiet


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


@pytest.mark.parametrize(("patience", "turns"), [("0", 3), ("1", 5)])
def test_rows_that_others_disturbed_are_timed_again(
    patience: str, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before and after each row: the second and the third are slow at first, then quiet.
    monkeypatch.setattr(quiet, "BEST", 2)
    loops = iter([1, 1, 1, 9, 1, 9, 1, 1, 1, 1])
    monkeypatch.setattr(quiet, "_loop_times", lambda: [float(next(loops))])
    timed: list[str] = []
    run = session.rows.run

    def note(case: Any, *more: Any) -> Any:
        timed.append(case.spec)
        return run(case, *more)

    monkeypatch.setattr(session.rows, "run", note)
    options = ["--rounds", "1", "--no-limits", "--patience", patience]
    arguments = parser().parse_args(["dense", "--shapes", "1x3x5", "2x3x5", "3x3x5", *options])
    arguments.threads = 1
    made = session.Session(arguments)
    assert made.run(chosen(arguments)) == 0
    first = ["1x3x5:linear", "2x3x5:linear", "3x3x5:linear"]
    assert timed == [*first, *first[1:]][:turns]
    assert [row.case for row in made.rows] == first
    speeds = [1, 1, 1] if turns == 5 else [1, 1 / 9, 1 / 9]
    assert [row.speed for row in made.rows] == pytest.approx(speeds)


def test_waiting_ends_when_it_is_quiet_or_late(monkeypatch: pytest.MonkeyPatch) -> None:
    def loops() -> Iterator[list[float]]:
        yield from ([1.0], [5.0], [5.0], [1.0], *[[5.0]] * 3)

    given = loops()
    monkeypatch.setattr(quiet, "_loop_times", lambda: next(given))
    monkeypatch.setattr(quiet, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(quiet, "BEST", 1)
    machine = Quiet()
    machine.seconds()
    assert machine.wait(time.monotonic() + 60) == 1.0
    assert machine.wait(time.monotonic() - 1) == 5.0
