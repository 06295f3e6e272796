"""Prints rows as a table, with the conditions above and the summary below, and writes the JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench import stats
from bench.quiet import QUIET
from bench.rows import Row

# Where other processes took more of the CPUs than this, a row is better timed again.
BUSY = 0.1


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Ratios over all rows: to the best peer, and to each peer that was in any of them."""
    summary: dict[str, Any] = {"cases": len(rows)}
    best = [(row.ratio, row.label) for row in rows if row.ratio is not None]
    if best:
        summary["best peer"] = _summary(best)
        summary["slowest case"] = min(best)[1]
    for name in peer_names(rows):
        summary[name] = _summary(
            [(row.peers[name].ratio, row.label) for row in rows if name in row.peers]
        )
    return summary


def peer_names(rows: Sequence[Row]) -> list[str]:
    """The peers that were timed in any of the rows, in the order of the rows."""
    return list(dict.fromkeys(peer for row in rows for peer in row.peers))


def _summary(found: list[tuple[float, str]]) -> dict[str, Any]:
    ratios = [ratio for ratio, _ in found]
    return {
        "geometric_mean": stats.geometric_mean(ratios),
        "minimum": min(ratios),
        "at": min(found)[1],
        "ahead": sum(ratio > 1 for ratio in ratios),
        "cases": len(ratios),
    }


def print_conditions(console: Console, conditions: dict[str, Any]) -> None:
    """A line for each thing that the numbers depend on."""
    console.print(
        f"{conditions['date']}  {conditions['cpu']}, {conditions['cores']} cores, "
        f"load {conditions['load']}, huge pages {conditions['huge_pages']}"
    )
    console.print(f"flags {' '.join(conditions['flags'])}")
    versions = {**conditions["versions"], **conditions["peers"]}
    console.print(" ".join(f"{name} {version}" for name, version in versions.items()))
    console.print(
        f"threads {conditions['threads']} on every side, target {conditions['target']} "
        f"(this machine is {conditions['native']})"
        f"{'' if conditions['records'] else ', records of tuned schedules ignored'}"
    )


def print_limits(console: Console, limits: dict[str, float]) -> None:
    console.print(", ".join(f"{name} {value:.0f}" for name, value in limits.items()))


def print_rows(console: Console, rows: Sequence[Row]) -> None:
    """The table: ratios are a peer's time over ours, so above 1 we are faster."""
    peers = peer_names(rows)
    title = (
        "time with buffers bound, us, of a peer its ratio to ours, and of a call from array to "
        "array; best: the least ratio"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("case", "data"):
        table.add_column(heading, no_wrap=True)
    table.add_column("schedule", overflow="fold")
    for heading in ("ours", "p99", "call", *peers, "best", "quartiles", "limit", "others"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        times = [_peer_cell(row, peer) for peer in peers]
        table.add_row(
            row.case,
            row.data,
            ", ".join(row.schedule),
            _micro(row.ours_us),
            _micro(row.ours_p99_us),
            _micro(row.ours_call_us) if row.ours_call_us is not None else "",
            *times,
            *_best(row),
            f"{row.fraction:.0%} {row.limit}" if row.fraction is not None else "",
            _others(row),
        )
    console.print(table)


def print_summary(console: Console, rows: Sequence[Row]) -> None:
    """The geometric mean and the minimum, against each peer and the best one of each case."""
    summary = summarise(rows)
    peers = {name: ratios for name, ratios in summary.items() if isinstance(ratios, dict)}
    if len(peers) == 2:  # one peer is its own best
        del peers["best peer"]
    for name, ratios in peers.items():
        console.print(
            f"against {name}: geometric mean {ratios['geometric_mean']:.2f}, "
            f"minimum {ratios['minimum']:.2f} at {ratios['at']}, "
            f"ahead in {ratios['ahead']} of {ratios['cases']} rows"
        )
    reasons = Counter(f"{peer}: {why}" for row in rows for peer, why in row.skipped.items())
    for reason, times in reasons.items():
        console.print(f"left out of {times} rows, {reason}")
    slow = sum(row.speed is not None and row.speed < QUIET for row in rows)
    if slow:
        console.print(
            f"the machine was slower than at its best around {slow} of {len(rows)} rows: "
            "--patience MINUTES waits and times them again",
            style="yellow",
        )
    busy = sum(row.others is not None and row.others > BUSY for row in rows)
    if busy:
        console.print(
            f"other processes took over {BUSY:.0%} of the CPUs in {busy} of {len(rows)} rows: "
            "time those again on a quiet machine",
            style="yellow",
        )


def write_json(
    path: Path,
    conditions: dict[str, Any],
    limits: dict[str, float] | None,
    rows: Sequence[Row],
    errors: dict[str, str],
    **more: Any,
) -> None:
    """One file: conditions, limits, rows, their summary, and the cases that gave no row.

    The file is whole at any moment: it takes the place of an earlier one when it is written.
    """
    record = {
        "conditions": conditions,
        "limits": limits,
        "rows": [row.as_json() for row in rows],
        "summary": summarise(rows),
        "errors": errors,
        **more,
    }
    written = path.with_name(f"{path.name}.tmp")
    written.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    written.replace(path)


def _peer_cell(row: Row, peer: str) -> Text:
    times = row.peers.get(peer)
    if times is None:
        return Text("-")
    return Text.assemble(f"{_micro(times.median_us)} ", (f"{times.ratio:.2f}", _style(times.ratio)))


def _best(row: Row) -> tuple[Text, str]:
    if row.ratio is None or row.best_peer is None:
        return Text("-"), ""
    best = row.peers[row.best_peer]
    cell = Text.assemble((f"{row.ratio:.2f}", _style(row.ratio)), f" {row.best_peer}")
    cell.append(f" {best.variant}" if best.variant else "")
    return cell, f"{best.ratio_low:.2f}..{best.ratio_high:.2f}"


def _style(ratio: float) -> str:
    return "green" if ratio >= 1 else "red"


def _others(row: Row) -> Text:
    if row.others is None:
        return Text("")
    return Text(f"{row.others:.0%}", style="yellow" if row.others > BUSY else "")


def _micro(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"
