"""One run of the benchmark: its conditions, limits, cases in turn, and what is written of them."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from itertools import product
from typing import Any

from rich.console import Console

from bench import conditions, peers, plot, report, rows, work
from bench.cases import Case, ModelCase
from bench.limits import Limits
from bench.ours import Settings
from bench.reference import WrongResult
from bench.rows import Row
from bench.timing import Plan
from tvmlayers.targets import native

QUICK = 0.25


class Session:
    """What the command line asked for; `run` does it once."""

    def __init__(self, arguments: Namespace) -> None:
        self.arguments = arguments
        # A log has no width of its own: the table is then as wide as it needs to be.
        self.console = Console(width=None if sys.stdout.isatty() else 230, markup=False)
        self.settings = Settings(
            arguments.target,
            arguments.threads,
            arguments.dtype,
            arguments.index_dtype,
            records=not arguments.untuned,
        )
        self.plots = (arguments.plot, getattr(arguments, "roofline", None))
        seconds = arguments.seconds * (QUICK if arguments.quick else 1)
        self.plan = Plan(seconds, arguments.rounds, 3 if arguments.quick else 5)
        self.rows: list[Row] = []
        self.errors: dict[str, str] = {}

    def run(self, cases: Sequence[Case]) -> int:
        """The exit status: 0, 1 where a result was wrong, 2 where a name is unknown."""
        try:
            rivals = peers.load(self.arguments.peers)
            if any(self.plots):
                plot.check()
            if self.plots[1] and self.arguments.no_limits:
                raise plot.NoPlotError("a roofline needs the limits: leave --no-limits out")
            for path in filter(None, (self.arguments.json, *self.plots)):
                path.touch()  # better refused now than after minutes of timing
        except (peers.PeerError, plot.NoPlotError, OSError) as error:
            self.console.print(f"bench: {error}", style="red")
            return 2
        rivals = [rival for rival in rivals if self.arguments.kind in rival.SIDES]
        for rival in rivals:
            rival.set_threads(self.settings.threads)
        versions = {rival.NAME: rival.version() for rival in rivals}
        found = conditions.read(self.settings.threads, self.settings.target, versions)
        found["records"] = self.settings.records
        report.print_conditions(self.console, found)
        limits = None if self.arguments.no_limits else Limits(self.settings.threads)
        peaks = limits.summary(self.settings.dtype) if limits is not None else None
        if peaks is not None:
            report.print_limits(self.console, peaks)
        try:
            self._time(cases, rivals, limits)
            if limits is not None:  # once more: each of them is the best that was seen
                peaks = limits.summary(self.settings.dtype)
        finally:
            self._tell(found, peaks)
        return 1 if self.errors else 0

    def _time(
        self, cases: Sequence[Case], rivals: Sequence[peers.Peer], limits: Limits | None
    ) -> None:
        cache_bytes = native().l2 * self.settings.threads
        steps = [step for case in cases for step in product([case], self._layouts(case))]
        with self.console.status("") as status:
            for place, (case, layout) in enumerate(steps, 1):
                status.update(f"{place}/{len(steps)} {case.kind} {case.spec} {layout}")
                try:
                    row = rows.run(
                        case, layout, self.settings, rivals, self.plan, limits, cache_bytes
                    )
                except WrongResult as error:
                    self.errors[f"{case.spec} {layout}"] = str(error)
                    self.console.print(f"wrong result: {error}", style="red")
                    continue
                self.rows.append(row)
        work.release()

    def _layouts(self, case: Case) -> tuple[str, ...]:
        if isinstance(case, ModelCase):
            return ("rotated",)
        data = self.arguments.data
        return ("repeated", "rotated") if data == "both" else (data,)

    def _tell(self, found: dict[str, Any], peaks: dict[str, float] | None) -> None:
        arguments = self.arguments
        if self.rows:
            report.print_rows(self.console, self.rows)
            report.print_summary(self.console, self.rows)
        if arguments.json is not None:
            report.write_json(arguments.json, found, peaks, self.rows, self.errors)
        if any(self.plots) and self.rows:
            plot.draw([plot.Run(found, peaks, self.rows)], *self.plots)
