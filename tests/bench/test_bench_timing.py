"""Interleaving, the check before timing, and the registry of peers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from clocks import Clock

torch = pytest.importorskip("torch")

from bench import peers, reference, timing, work  # noqa: E402 - without torch the file is skipped first
from bench.specs import parse  # noqa: E402 - without torch the file is skipped first
from bench.timing import Plan, Side, fastest, measure, pause  # noqa: E402 - without torch the file is skipped first


def test_sides_take_turns_and_rotate_their_calls() -> None:
    order: list[str] = []
    sides = [
        Side("a", [partial(order.append, "a0"), partial(order.append, "a1")]),
        Side("b", [partial(order.append, "b0")]),
    ]
    times = measure(sides, Plan(rounds=4))
    assert [len(side.rounds) for side in times] == [4, 4]
    changes = [now[0] for now, before in zip(order[1:], order, strict=False) if now[0] != before[0]]
    assert len(changes) >= 4
    assert order.count("a0") == pytest.approx(order.count("a1"), abs=1)


def test_slower_side_has_the_longer_median(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    quick, slow = (Side(str(s), [partial(clock.sleep, s)]) for s in (0.0005, 0.003))
    times = measure([quick, slow], Plan(rounds=3))
    assert [each.median for each in times] == pytest.approx([0.0005, 0.003])
    assert [each.p99 for each in times] == pytest.approx([0.0005, 0.003])
    assert fastest([slow, quick]) is quick


@pytest.mark.parametrize("busy", [0.0, 0.08])
def test_pause_waits_for_threads_that_spin(busy: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(busy_until=busy)
    monkeypatch.setattr(timing, "time", clock)
    pause()
    least = timing.MIN_SLICES * timing.SLICE_OF_PAUSE
    assert clock.now == pytest.approx(max(busy, least), abs=1.01 * timing.SLICE_OF_PAUSE)
    assert clock.now >= busy


def test_wrong_result_is_refused_and_says_where() -> None:
    made = work.make(parse("dense", "3x17x5:relu"), "repeated", "float32", "int64", 1)
    (right,) = reference.expected(made, [0])
    wrong = right.astype(np.float32)
    wrong[2, 4] += 0.01
    reference.check([Side("right", [lambda: right.astype(np.float32)])], made)
    with pytest.raises(reference.WrongResult, match=r"wrong on dense 3x17x5:relu: at \(2, 4\)"):
        reference.check([Side("wrong", [lambda: wrong])], made)


def test_nan_is_a_wrong_result() -> None:
    made = work.make(parse("embedding", "7x3x2"), "repeated", "float32", "int64", 1)
    nan = np.full((2, 3), np.nan, np.float32)
    with pytest.raises(reference.WrongResult):
        reference.check([Side("nan", [lambda: nan])], made)


@pytest.mark.parametrize(
    "spec",
    [
        *(("dense", f"3x17x31:{name}") for name in ("linear", "gelu", "softmax", "mish")),
        ("embedding", "31x17x333:zipf"),
        *(("bag", f"333x17x31x0..9:{mode}") for mode in ("sum", "mean", "max")),
        *(("bag", f"333x17x31x3:{mode}") for mode in ("sum", "mean", "max", "min")),
        ("model", "seed@3"),
        ("model", "text@3"),
    ],
)
def test_torch_agrees_with_its_float64_self(spec: tuple[str, str]) -> None:
    case = parse(*spec)
    made = work.make(case, "repeated", "float32", "int64", 1)
    (torch_peer,) = peers.load(["torch"])
    sides = torch_peer.SIDES[case.kind](made)
    assert sides
    reference.check(sides, made)


def test_unknown_peer_names_the_known() -> None:
    with pytest.raises(peers.PeerError, match="torch"):
        peers.load(["tourch"])
