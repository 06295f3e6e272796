"""`python -m bench contention`: calls beside other programs, and from several threads at once.

Each side lives in a process of its own, so that their thread pools do not meet. The sides take
turns in short rounds; beside them run as many processes that never sleep as `--busy` says. A call
is made as soon as the last one has ended (closed loop), or some milliseconds after it. Reported are
percentiles of a call's time, calls a second, and the CPU time of a call with all that its process
does meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, product
from typing import Any

import numpy as np
from rich.table import Table

from bench import children, peers
from bench.timing import Side

SPIN = "while True: pass"
WARM_CALLS = 20
CASES = ("model seed@1", "model seed@32", "model seed@256", "model text@512")
DENSE = "dense 128x768x3072:gelu"


@dataclass(frozen=True)
class Load:
    """busy: other processes that never sleep; callers: threads that call at the same time;
    pause: milliseconds between a caller's calls, 0 for none."""

    busy: int
    callers: int
    pause: float

    def __str__(self) -> str:
        pace = f"every {self.pause:g} ms" if self.pause else "closed loop"
        return f"{self.busy} busy, {self.callers} calling, {pace}"


@dataclass(frozen=True)
class Figures:
    """Of one side of a case under a load: microseconds, calls a second, threads of the process."""

    case: str
    load: str
    side: str
    calls: int
    p50: float
    p99: float
    p999: float
    cpu: float
    rate: float
    threads: int


def add_arguments(sub: argparse.ArgumentParser) -> None:
    children.add_arguments(sub, [*CASES, DENSE], "onnxruntime,openvino,torch")
    sub.add_argument("--busy", default="0,1,2", help="processes beside; %(default)s")
    sub.add_argument("--callers", default="1", help="threads that call; %(default)s")
    sub.add_argument("--pauses", default="0,2", help="milliseconds; %(default)s")
    sub.add_argument("--seconds", type=float, default=1.0, help="of a round; %(default)s")
    sub.add_argument("--rounds", type=int, default=3, help="%(default)s")


def run(arguments: argparse.Namespace) -> int:
    """0; 2 where a case or a peer is unknown."""
    console, wanted, threads = children.asked(arguments)
    if wanted is None:
        return 2
    loads = [
        Load(int(busy), int(callers), float(pause))
        for busy, callers, pause in product(
            arguments.busy.split(","), arguments.callers.split(","), arguments.pauses.split(",")
        )
    ]
    found: list[Figures] = []
    for case, names in wanted:
        with contextlib.ExitStack() as stack:
            sides = [
                stack.enter_context(child(case, name, threads)) for name in (*children.OURS, *names)
            ]
            for side in list(sides):
                if reason := side.receive():
                    console.print(f"{case}: {side.name} is left out: {reason}")
                    sides.remove(side)
            for load in loads:
                found += measure(case, load, sides, arguments.seconds, arguments.rounds)
                console.print(table(found[-len(sides) :]))
    if arguments.json is not None:
        rows = [asdict(each) for each in found]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


@dataclass(frozen=True)
class Child:
    """A process with one side of a case."""

    name: str
    process: subprocess.Popen[str]

    def ask(self, load: Load, seconds: float) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([load.callers, load.pause, seconds]) + "\n")
        self.process.stdin.flush()
        return self.receive()

    def receive(self) -> Any:
        """The next line that `serve` writes; the first is why the side leaves the case out."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


@contextlib.contextmanager
def child(case: str, name: str, threads: int) -> Iterator[Child]:
    command = [sys.executable, "-m", "bench.contention", case, name, str(threads)]
    environment = children.environment(threads)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Child(name, process)
        finally:
            process.kill()


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def measure(
    case: str, load: Load, sides: Sequence[Child], seconds: float, rounds: int
) -> list[Figures]:
    answers: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    with busy(load.busy):
        for turn in range(rounds):
            first = turn % len(sides)
            for side in (*sides[first:], *sides[:first]):
                answers[side.name].append(side.ask(load, seconds))
    return [figures(case, load, name, given) for name, given in answers.items()]


def figures(case: str, load: Load, side: str, given: Sequence[dict[str, Any]]) -> Figures:
    times = np.concatenate([each["times"] for each in given])
    p50, p99, p999 = (float(np.percentile(times, share)) for share in (50, 99, 99.9))
    cpu = sum(each["cpu"] for each in given) / len(times)
    rate = statistics.median(len(each["times"]) / each["seconds"] for each in given)
    most = max(each["threads"] for each in given)
    return Figures(case, str(load), side, len(times), p50, p99, p999, cpu * 1e6, rate, most)


def table(rows: Sequence[Figures]) -> Table:
    made = Table(title=f"{rows[0].case}: {rows[0].load}; us")
    for head in ("side", "p50", "p99", "p99.9", "CPU a call", "calls/s", "threads"):
        made.add_column(head, justify="left" if head == "side" else "right")
    for row in rows:
        cells = (row.p50, row.p99, row.p999, row.cpu)
        made.add_row(
            row.side, *(f"{value:.1f}" for value in cells), f"{row.rate:.0f}", str(row.threads)
        )
    return made


def serve(case: str, name: str, threads: int) -> None:
    """Answers each line of standard input with what its load gave, where the side does the case."""
    try:
        (side,) = children.prepare(case, [name], threads)
    except peers.Unsupported as reason:
        print(json.dumps(str(reason)), flush=True)
        return
    print(json.dumps(""), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(side, *json.loads(line))), flush=True)


def answer(side: Side, callers: int, pause: float, seconds: float) -> dict[str, Any]:
    times: list[list[float]] = [[] for _ in range(callers)]
    begin = threading.Barrier(callers + 1)
    ended: list[bool] = []

    def call(place: int) -> None:
        turns: Iterator[Callable[[], Any]] = cycle(side.calls)
        clock, mine = time.perf_counter, times[place]
        with side.context():
            for _ in range(WARM_CALLS):
                next(turns)()
            begin.wait()
            while not ended:
                if pause:
                    time.sleep(pause / 1e3)
                one = next(turns)
                start = clock()
                one()
                mine.append((clock() - start) * 1e6)

    started = [threading.Thread(target=call, args=(place,)) for place in range(callers)]
    for thread in started:
        thread.start()
    begin.wait()
    cpu, start = time.process_time(), time.perf_counter()
    time.sleep(seconds)
    threads = len(os.listdir("/proc/self/task"))
    ended.append(True)
    for thread in started:
        thread.join()
    return {
        "times": [value for each in times for value in each],
        "cpu": time.process_time() - cpu,
        "seconds": time.perf_counter() - start,
        "threads": threads,
    }


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
