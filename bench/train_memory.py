"""`python -m bench train --memory`: what each side of a training case takes, alone in a process.

In MiB beyond what its imports take: held, after some steps; and the peak, compiling included. Linux
counts both.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.train_cases import TrainCase, parse

_ROUNDS = 3  # over a case's batches


@dataclass(frozen=True)
class Memory:
    """MiB of one side of one case."""

    case: str
    side: str
    held: float
    peak: float


def measured(
    cases: Sequence[TrainCase], names: Sequence[str], threads: int, console: Console
) -> list[Memory]:
    """The rows of all cases. A side that fails is left out, and its reason printed."""
    rows = []
    for case in cases:
        for name in names:
            command = [sys.executable, "-m", "bench.train_memory", case.name, name, str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
                console.print(f"{case.name}: {name} is left out: {reason[0]}")
                continue
            rows.append(Memory(case.name, name, *json.loads(done.stdout.splitlines()[-1])))
    return rows


def table(rows: Sequence[Memory], threads: int) -> Table:
    made = Table(title=f"MiB of training beyond the imports, {threads} threads")
    for head in ("case", "side"):
        made.add_column(head)
    for head in ("held", "peak"):
        made.add_column(head, justify="right")
    for row in rows:
        made.add_row(row.case, row.side, f"{row.held:,.0f}", f"{row.peak:,.0f}")
    return made


def dumped(rows: Sequence[Memory]) -> str:
    """The rows as JSON."""
    return json.dumps([asdict(row) for row in rows], indent=1) + "\n"


def _status(what: str) -> float:
    """MiB of this process, by Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = [line for line in lines if line.startswith(f"{what}:")]
    return int(found.split()[1]) / 1024


def main(argv: Sequence[str]) -> int:
    """Trains one side for some steps, and prints [held, peak]."""
    case, name, threads = parse(argv[0]), argv[1], int(argv[2])
    from bench.train_sides import SIDES

    warm = TrainCase("text", 2, "sgd")  # so that what is loaded with the first step counts for all
    SIDES[name](warm, threads)[0]()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    calls = SIDES[name](case, threads)
    for _ in range(_ROUNDS):
        for call in calls:
            call()
    gc.collect()
    print(json.dumps([_status("VmRSS") - before, _status("VmHWM") - before]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
