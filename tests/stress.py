"""`python -m tests.stress`: calls from many threads, with errors, signals, forks and exits between.

Every result is compared bit by bit with the one that a single thread gave. Exit status 1 at a wrong
result, an error of another kind than was provoked, a child that dies or hangs, or growth of memory,
threads or open files in the second half of the calls.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tvmlayers as tl
from tvmlayers import targets

ROWS, LENGTH = 1000, 10
BATCHES = (1, 8, 32, 200)
CALLS_OF_A_THREAD = 2000  # after which another one takes its place
CALLS_OF_A_FORK, CALLS_OF_AN_EXIT = 4000, 40_000
PHASES, MOST_GROWTH = 4, 32 << 20
LEAST_TO_SEE_GROWTH = 200_000  # calls: before, memory still comes to what it will be
_HANG = 120  # seconds, after which a child has hung

LEAVES = """
import sys, threading
import numpy as np
import tvmlayers as tl
model = tl.load(sys.argv[1])
ids = np.zeros((32, 10), np.int64)
def call():
    while True:
        model(ids)
for _ in range(4):
    threading.Thread(target=call, daemon=True).start()
for _ in range(200):
    model(ids)
"""


class Interrupted(Exception):
    """What the handler of a signal raises in the main thread."""


@dataclass
class Stress:
    """One run. counts: of what was done; faults: what was wrong."""

    calls: int
    threads: int
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        layers = [
            tl.Embedding(ROWS, 64, input_length=LENGTH),
            tl.Flatten(),
            tl.Dense(128, "relu"),
            tl.Dense(10, "softmax"),
        ]
        self.model = tl.compile(tl.Sequential(layers), threads=2)
        rng = np.random.default_rng(self.seed)
        self.inputs = [rng.integers(0, ROWS, (batch, LENGTH)) for batch in BATCHES]
        self.results = [self.model(ids) for ids in self.inputs]
        self._left = self.calls
        self._lock = threading.Lock()

    def run(self) -> int:
        """The exit status; what was done and what was wrong is printed."""
        with tempfile.TemporaryDirectory(prefix="tvmlayers-stress-") as folder:
            artefact = Path(folder) / "model.tvml"
            self.model.save(artefact)
            phases = [self._phase(self.calls // PHASES, artefact) for _ in range(PHASES)]
        for what in phases[0] if self.calls >= LEAST_TO_SEE_GROWTH else ():
            most = MOST_GROWTH if what == "bytes" else 2
            amounts = [phase[what] for phase in phases]
            # What callers leave behind differs by who called at the same time: what grows is above
            # all that was there before.
            if min(amounts[PHASES // 2 :]) > max(amounts[: PHASES // 2]) + most:
                self.faults.append(f"{what} grew: {amounts}")
        print(", ".join(f"{count} {what}" for what, count in sorted(self.counts.items())))
        print(f"held after each part of the calls: {phases}")
        for fault in self.faults[:20]:
            print(f"FAULT: {fault}")
        return 1 if self.faults else 0

    def _phase(self, calls: int, artefact: Path) -> dict[str, int]:
        """Make so many calls; what the process holds afterwards."""
        self._left = calls
        helpers = [threading.Thread(target=self._fork, args=(calls,))]
        helpers.append(threading.Thread(target=self._leave, args=(calls, artefact)))
        for helper in helpers:
            helper.start()
        callers: list[threading.Thread] = []
        number = 0
        while self._left > 0:
            callers = [caller for caller in callers if caller.is_alive()]
            while len(callers) < self.threads:
                number += 1
                caller = threading.Thread(target=self._call, args=(number,))
                caller.start()
                callers.append(caller)
            self._interrupted_calls()
        for thread in (*callers, *helpers):
            thread.join()
        return held()

    def _take(self) -> bool:
        """Whether one more call is to be made."""
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def _note(self, what: str, fault: str | None = None) -> None:
        with self._lock:
            self.counts[what] += 1
            if fault is not None:
                self.faults.append(fault)

    def _call(self, number: int) -> None:
        draw = random.Random(self.seed * 1_000_003 + number)
        bound = self.model.bind(self.inputs[0])
        for _ in range(CALLS_OF_A_THREAD):
            if not self._take():
                return
            what = draw.random()
            if what < 0.02:
                self._refused(draw)
            elif what < 0.1:
                self._compare("bound calls", bound(), 0)
            else:
                self._right(draw.randrange(len(BATCHES)))

    def _right(self, place: int) -> None:
        self._compare("calls", self.model(self.inputs[place]), place)

    def _compare(self, what: str, result: Any, place: int) -> None:
        is_right = np.array_equal(result, self.results[place])
        self._note(what, None if is_right else f"a wrong result for {BATCHES[place]} rows")

    def _refused(self, draw: random.Random) -> None:
        bad, wanted = draw.choice(
            [
                (np.full((32, LENGTH), ROWS), tl.IndexOutOfRangeError),
                (np.zeros((3, LENGTH + 1), np.int64), tl.ShapeError),
                (np.zeros((3, LENGTH)), tl.DTypeError),
            ]
        )
        try:
            self.model(bad)
        except wanted:
            self._note("refusals")
        except Exception as error:
            self._note("refusals", f"{error!r} instead of {wanted.__name__}")
        else:
            self._note("refusals", f"no {wanted.__name__}")

    def _interrupted_calls(self) -> None:
        """Calls of the main thread, in one of which a signal's handler raises."""

        def handler(*_: object) -> None:
            raise Interrupted

        before = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.003)
            while True:
                np.array_equal(self.model(self.inputs[-1]), self.results[-1])
        except Interrupted:
            pass
        finally:
            signal.signal(signal.SIGALRM, before)
        self._note("signals")
        self._right(len(BATCHES) - 1)

    def _fork(self, calls: int) -> None:
        for _ in range(max(1, calls // CALLS_OF_A_FORK)):
            if self._left <= 0:
                return
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(_HANG)
                pairs = zip(self.inputs, self.results, strict=True)
                same = all(np.array_equal(self.model(ids), result) for ids, result in pairs)
                os._exit(0 if same else 1)
            _, status = os.waitpid(child, 0)
            self._note("forks", f"a child ended with status {status}" if status else None)

    def _leave(self, calls: int, artefact: Path) -> None:
        """Processes that end while daemon threads of theirs are inside of calls."""
        for _ in range(max(1, calls // CALLS_OF_AN_EXIT)):
            done = subprocess.run(
                [sys.executable, "-c", LEAVES, str(artefact)],
                capture_output=True,
                text=True,
                timeout=_HANG,
            )
            is_quiet = done.returncode == 0 and not done.stderr
            fault = None if is_quiet else f"an exit with {done.returncode}: {done.stderr[-300:]}"
            self._note("exits", fault)


def held() -> dict[str, int]:
    """Bytes of memory, threads and open files of this process."""
    ctypes.CDLL(None).malloc_trim(0)
    for _ in range(100):  # a thread that was joined may still be on its way out
        if len(os.listdir("/proc/self/task")) <= targets.usable_cpus():
            break
        time.sleep(0.02)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{given.calls} calls from {given.threads} threads on {targets.usable_cpus()} CPUs")
    return Stress(given.calls, given.threads, given.seed).run()


if __name__ == "__main__":
    sys.exit(main())
