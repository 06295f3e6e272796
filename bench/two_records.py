"""`python -m bench.two_records A B`: what two folders of records hold for the same kernels, timed.

For each kernel that both folders have a record of, the decisions of A and of B are measured in
turns, on the data that B's record was tuned on. The speed is the time of B over the time of A, so
above 1 A is faster; equal decisions count as 1. The journals of the run that made B, where given,
say what a trial cost.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.stats import geometric_mean, median

ROUNDS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 2 where the folders share no kernel."""
    parser = argparse.ArgumentParser(prog="python -m bench.two_records", description=__doc__)
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--target", default="native", help="whose records (default: this machine)")
    parser.add_argument("--kind", default="dense")
    parser.add_argument("--threads", type=int, help="default: the physical cores")
    parser.add_argument("--journals", type=Path, metavar="DIR", help="--work-dir of B's run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    from tvmlayers.targets import physical_cores

    arguments.threads = arguments.threads or physical_cores()
    rows = _rows(arguments)
    if not rows:
        print(f"{arguments.a} and {arguments.b} share no {arguments.kind} kernel", file=sys.stderr)
        return 2
    speed = geometric_mean([row["speed"] for row in rows])
    least = min(rows, key=lambda row: row["speed"])
    print(f"geometric mean {speed:.3f}, least {least['speed']:.3f} at {least['workload']}")
    if arguments.json:
        from bench import conditions

        said = {
            "conditions": conditions.read(arguments.threads, arguments.target, {}),
            "geometric_mean": round(speed, 4),
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(said, indent=1) + "\n")
    return 0


def _rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from tvmlayers.records import file_of
    from tvmlayers.records.parse import read
    from tvmlayers.targets import resolve
    from tvmlayers.tune.journal import path_of
    from tvmlayers.tune.local import LocalMeasurer

    target = resolve(arguments.target)
    a, b = (
        {
            record.workload: record
            for record in read(file_of(folder, target.name, arguments.kind)).records
        }
        for folder in (arguments.a, arguments.b)
    )
    measurer = LocalMeasurer(target, arguments.threads)
    rows = []
    try:
        for workload in sorted(a.keys() & b.keys(), key=str):
            row = _compared(a[workload], b[workload], measurer)
            if arguments.journals:
                row |= _trial_seconds(path_of(arguments.journals, target, workload))
            print(f"{row['workload']:48s} {row['speed']:.3f}", flush=True)
            rows.append(row)
    finally:
        measurer.close()
    return rows


def _compared(a: Any, b: Any, measurer: Any) -> dict[str, Any]:
    """One row: microseconds of both, and the median over rounds of B's time over A's."""
    from tvmlayers.tune.cases import Case
    from tvmlayers.tune.data import Data

    both = [a.decisions, b.decisions]
    measurer.open(Case(b.workload, Data.of(b.data)), 0, b.decisions)
    times = [
        measurer.compare(both[::-1])[::-1] if turn % 2 else measurer.compare(both)
        for turn in range(ROUNDS)
    ]
    speed = median([of_b / of_a for of_a, of_b in times]) if both[0] != both[1] else 1.0
    return {
        "workload": str(b.workload),
        "a_us": round(median([of_a for of_a, _ in times]), 3),
        "b_us": round(median([of_b for _, of_b in times]), 3),
        "speed": round(speed, 4),
        "trials": [a.trials, b.trials],
    }


def _trial_seconds(journal: Path) -> dict[str, float]:
    """What a trial cost on average, building included; nothing where no trial was kept."""
    if not journal.exists():
        return {}
    whole, _, _ = journal.read_text().rpartition("\n")  # a killed run leaves half a line
    seconds = [float(json.loads(line)["seconds"]) for line in whole.splitlines()]
    return {"seconds_a_trial": round(sum(seconds) / len(seconds), 3)} if seconds else {}


if __name__ == "__main__":
    sys.exit(main())
