"""`python -m bench turns`: calls of ours and of a peer in strict alternation, in one process.

A program that uses both pays for what their thread pools do to each other: workers that spin after
a call take the CPUs of the next one. Each pair has a process of its own. In every round ours is
timed alone, the peer alone, and both in turns; kernels and inputs rotate, so that nobody's weights
stay in a cache in one of these and not in another. A call's time is the mean over a slice.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any

from rich.table import Table

from bench import children, peers, stats
from bench.timing import Call, Side, pause

OURS = "ours"
CASES = ("dense 128x768x768", "model seed@256")
PEERS = "torch,onnxruntime,openvino"
WARM_CALLS = 20


@dataclass(frozen=True)
class Figures:
    """Of one pair: medians over the rounds, a call's time in microseconds.

    ratio: both in turns over the sum of both alone, and the quartiles of that over the rounds.
    """

    case: str
    peer: str
    ours: float
    other: float
    ours_in_turns: float
    other_in_turns: float
    ratio: float
    ratio_low: float
    ratio_high: float


def add_arguments(sub: argparse.ArgumentParser) -> None:
    children.add_arguments(sub, CASES, PEERS)
    sub.add_argument("--seconds", type=float, default=0.3, help="of a slice; %(default)s")
    sub.add_argument("--rounds", type=int, default=5, help="of three slices; %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """0; 2 where a case or a peer is unknown."""
    console, wanted, threads = children.asked(arguments)
    if wanted is None:
        return 2
    found: list[Figures] = []
    for case, names in wanted:
        for name in names:
            given = in_child(case, name, threads, arguments.seconds, arguments.rounds)
            if isinstance(given, str):
                console.print(f"{case}: {name} is left out: {given}")
            else:
                found.append(figures(case, name, given))
    console.print(table(found, threads))
    if arguments.json is not None:
        rows = [asdict(each) for each in found]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def in_child(case: str, name: str, threads: int, seconds: float, rounds: int) -> Any:
    """What `measure` gave in a process of its own, or why the peer does not do the case."""
    words = (case, name, str(threads), str(seconds), str(rounds))
    done = subprocess.run(
        [sys.executable, "-m", "bench.turns", *words],
        stdout=subprocess.PIPE,
        text=True,
        env=children.environment(threads),
        check=True,
    )
    return json.loads(done.stdout)


def figures(case: str, peer: str, given: Sequence[Sequence[float]]) -> Figures:
    ratios = [(mine + theirs) / (ours + other) for ours, other, mine, theirs in given]
    medians = (stats.median(times) for times in zip(*given, strict=True))
    quartiles = (stats.percentile(ratios, share) for share in (50, 25, 75))
    return Figures(case, peer, *medians, *quartiles)


def table(rows: Sequence[Figures], threads: int) -> Table:
    made = Table(title=f"us of a call, {threads} threads; ratio: in turns over alone")
    for head in ("case", "peer"):
        made.add_column(head)
    for head in ("ours alone", "peer alone", "sum", "in turns", "ours", "peer", "ratio", "of"):
        made.add_column(head, justify="right")
    for row in rows:
        both, turns = row.ours + row.other, row.ours_in_turns + row.other_in_turns
        times = (row.ours, row.other, both, turns, row.ours_in_turns, row.other_in_turns)
        spread = f"{row.ratio_low:.2f}..{row.ratio_high:.2f}"
        cells = (f"{value:.1f}" for value in times)
        made.add_row(row.case, row.peer, *cells, f"{row.ratio:.2f}", spread)
    return made


def measure(ours: Side, other: Side, seconds: float, rounds: int) -> list[list[float]]:
    """Of each round: ours alone, the other alone, ours and the other in turns."""
    mine, theirs = cycle(ours.calls), cycle(other.calls)
    found = []
    with ours.context(), other.context():
        for turn in range(rounds):
            slices = [(0, [mine]), (1, [theirs]), (2, [mine, theirs])]
            times: dict[int, list[float]] = {}
            for place, calls in (*slices[turn % 3 :], *slices[: turn % 3]):
                times[place] = timed(calls, seconds)
            found.append([*times[0], *times[1], *times[2]])
    return found


def timed(turns: Sequence[Iterator[Call]], seconds: float) -> list[float]:
    """The mean time of a call of each, one after the other, in microseconds."""
    pause()
    for _ in range(WARM_CALLS):
        for turn in turns:
            next(turn)()
    clock, spent, rounds = time.perf_counter, [0.0] * len(turns), 0
    begin = clock()
    while clock() - begin < seconds:
        for place, turn in enumerate(turns):
            call = next(turn)
            start = clock()
            call()
            spent[place] += clock() - start
        rounds += 1
    return [each / rounds * 1e6 for each in spent]


def main(case: str, name: str, threads: str, seconds: str, rounds: str) -> None:
    try:
        ours, other = children.prepare(case, [OURS, name], int(threads))
    except peers.Unsupported as reason:
        print(json.dumps(str(reason)))
        return
    print(json.dumps(measure(ours, other, float(seconds), int(rounds))))


if __name__ == "__main__":
    main(*sys.argv[1:])
