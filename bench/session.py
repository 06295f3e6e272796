"""One run of the benchmark: its conditions, limits, cases in turn, and what is written of them."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from rich.console import Console

from bench import conditions, peers, plot, report, rows, work
from bench.cases import Case, ModelCase
from bench.limits import Limits
from bench.quiet import QUIET, Patience, Quiet
from bench.reference import WrongResult
from bench.rows import Row
from bench.settings import Settings
from bench.timing import Plan
from tvmlayers import plots
from tvmlayers.dtypes import is_half
from tvmlayers.errors import TvmLayersError
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
        self.has_no_limits = arguments.no_limits or is_half(arguments.dtype)
        self.plots = (arguments.plot, getattr(arguments, "roofline", None))
        seconds = arguments.seconds * (QUICK if arguments.quick else 1)
        self.plan = Plan(seconds, arguments.rounds, 3 if arguments.quick else 5)
        self.rows: list[Row] = []
        self.errors: dict[str, str] = {}
        self.quiet = Quiet()
        self.until = 0.0  # on the clock, what patience there is

    def run(self, cases: Sequence[Case]) -> int:
        """The exit status: 0, 1 where a result was wrong, 2 where a name is unknown."""
        try:
            rivals = peers.load(self.arguments.peers)
            if any(self.plots):
                plots.need_matplotlib()
            if self.plots[1] and self.has_no_limits:
                raise plot.NoPlotError(
                    "a roofline needs the limits: leave --no-limits out, and halves"
                )
            for path in filter(None, (self.arguments.json, *self.plots)):
                path.touch()  # better refused now than after minutes of timing
        except (peers.PeerError, TvmLayersError, OSError) as error:
            self.console.print(f"bench: {error}", style="red")
            return 2
        rivals = [rival for rival in rivals if self.arguments.kind in rival.SIDES]
        for rival in rivals:
            rival.set_up(self.settings)
        versions = {rival.NAME: rival.version() for rival in rivals}
        found = conditions.read(self.settings.threads, self.settings.target, versions)
        found["records"] = self.settings.records
        report.print_conditions(self.console, found)
        self.until = time.monotonic() + 60 * self.arguments.patience
        limits = None if self.has_no_limits else Limits(self.settings.threads)
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
        found: dict[int, Row] = {}
        loops: dict[int, float] = {}  # what tells of the machine's speed around each row
        with self.console.status("") as status:
            for place, left in self._turns(loops, len(steps)):
                case, layout = steps[place]
                status.update(f"{place + 1}/{len(steps)} {case.kind} {case.spec} {layout}")
                before, patience = self.quiet.seconds(), self._patience(left)
                plan = replace(self.plan, patience=patience)
                try:
                    row = rows.run(case, layout, self.settings, rivals, plan, limits, cache_bytes)
                except WrongResult as error:
                    self.errors[f"{case.spec} {layout}"] = str(error)
                    self.console.print(f"wrong result: {error}", style="red")
                    continue
                loop = patience.loop() if patience else max(before, self.quiet.seconds())
                if loop <= loops.get(place, loop):
                    found[place], loops[place] = row, loop
        for place in sorted(found):
            self.rows.append(replace(found[place], speed=self.quiet.speed(loops[place])))
        work.release()

    def _patience(self, rows: int) -> Patience | None:
        """What the next row has of the patience, where so many rows are left to share it."""
        now = time.monotonic()
        return Patience(self.quiet, now + (self.until - now) / rows) if now < self.until else None

    def _turns(self, loops: Mapping[int, float], count: int) -> Iterator[tuple[int, int]]:
        """Places, and how many are left: all in turn; with patience, then those that others
        disturbed."""
        turn: Sequence[int] = range(count)
        while turn:
            yield from zip(turn, range(len(turn), 0, -1), strict=True)
            late = time.monotonic() >= self.until
            slow = [place for place, loop in loops.items() if self.quiet.speed(loop) < QUIET]
            turn = [] if late else slow

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
