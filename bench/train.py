"""`python -m bench train`: our training steps against their peers' on this machine.

A step is forwards, backwards and update, from the caller's arrays to the loss as a number. All
sides of a case take turns in one process, each over the same batches. A peer that is not installed
or does not do a case is left out, and said so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import train_memory
from bench.timing import Plan, Side, measure
from bench.train_cases import CASES, TrainCase, parse

PEERS = "torch,torch.compile,fbgemm,jax"


@dataclass(frozen=True)
class Row:
    """One side of one case: microseconds of a step, and ours over it in speed."""

    case: str
    side: str
    median: float
    p99: float
    ratio: float


def add_arguments(sub: argparse.ArgumentParser) -> None:
    names = [case.name for case in CASES]
    sub.add_argument("--cases", nargs="+", metavar="CASE", default=names, help=" ".join(names))
    sub.add_argument("--peers", default=PEERS, help="%(default)s")
    sub.add_argument("--threads", type=int, help="of every side; default the physical cores")
    sub.add_argument("--seconds", type=float, default=3.0, help="of timing a case; %(default)s")
    sub.add_argument("--memory", action="store_true", help="MiB of each side, instead of times")
    sub.add_argument("--json", type=Path, metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    """0; 2 where a case or a peer is unknown."""
    from tvmlayers.targets import physical_cores

    console = Console(width=None if sys.stdout.isatty() else 120, markup=False)
    threads = arguments.threads or physical_cores()
    # Thread pools read these once, as their libraries load: so before the sides are imported.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
    from bench.train_sides import SIDES

    names = ["ours", *(name for name in arguments.peers.split(",") if name)]
    try:
        cases = [parse(text) for text in arguments.cases]
        unknown = [name for name in names if name not in SIDES]
        if unknown:
            raise ValueError(f"unknown peer {unknown[0]!r}; known: {', '.join(SIDES)}")
    except ValueError as error:
        console.print(f"bench: {error}", style="red")
        return 2
    if arguments.memory:
        taken = train_memory.measured(cases, names, threads, console)
        console.print(train_memory.table(taken, threads))
        if arguments.json is not None:
            arguments.json.write_text(train_memory.dumped(taken), encoding="utf-8")
        return 0
    rows: list[Row] = []
    for case in cases:
        rows += timed(case, names, threads, arguments.seconds, console)
    console.print(table(rows, threads))
    if arguments.json is not None:
        found = [asdict(each) for each in rows]
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def timed(
    case: TrainCase, names: list[str], threads: int, seconds: float, console: Console
) -> list[Row]:
    """The rows of one case, ours first."""
    from bench.train_sides import SIDES

    sides = []
    for name in names:
        try:
            calls = SIDES[name](case, threads)
            calls[0]()
        except (ImportError, LookupError, RuntimeError) as reason:
            console.print(f"{case.name}: {name} is left out: {str(reason).splitlines()[0]}")
            continue
        sides.append(Side(name, calls))
    times = measure(sides, Plan(seconds=seconds))
    own = times[0].median
    return [
        Row(case.name, side.name, each.median * 1e6, each.p99 * 1e6, each.median / own)
        for side, each in zip(sides, times, strict=True)
    ]


def table(rows: list[Row], threads: int) -> Table:
    made = Table(title=f"us of a step, {threads} threads; ratio: our speed over theirs")
    made.add_column("case")
    made.add_column("side")
    for head in ("median", "p99", "ratio"):
        made.add_column(head, justify="right")
    for row in rows:
        figures = (f"{row.median:,.1f}", f"{row.p99:,.1f}", f"{row.ratio:.2f}")
        made.add_row(row.case, row.side, *figures)
    return made
