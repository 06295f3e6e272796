"""How tuning looks while it runs: a live display on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tvmlayers.printing import PlainConsole, printable
from tvmlayers.tune import Progress as Listener
from tvmlayers.tune import State, WorkloadResult

# The share of a workload's trials between two plain lines without an improvement.
STEP = 0.1
# An improvement smaller than this waits for the next line.
NEWS = 0.99


@contextmanager
def display(console: PlainConsole) -> Iterator[Listener]:
    """What `tune` reports its progress to."""
    if not console.is_terminal:
        yield Lines(console)
        return
    # No refreshing thread: it would wake up in the middle of what is being timed.
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}", markup=False),
        console=console,
        auto_refresh=False,
    )
    with bars:
        yield Live(bars)


class Live:
    """A bar a workload, moved on after each trial."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def begin(self, state: State) -> None:
        self._bar = self._bars.add_task(
            printable(f"{state.place} {state.case}"),
            total=state.trials,
            said="",
            completed=state.done,
        )
        self._bars.refresh()

    def trial(self, state: State) -> None:
        self._bars.update(
            self._bar, completed=state.done, said=printable(said(state)), refresh=True
        )

    def end(self, state: State, result: WorkloadResult) -> None:
        text = f"{result.microseconds:.4g} us, {result.speedup:.2f}x untuned{failed(state)}"
        self._bars.update(self._bar, completed=state.trials, said=printable(text), refresh=True)


class Lines:
    """A line at improvements and at every tenth of a workload."""

    def __init__(self, console: PlainConsole) -> None:
        self._console = console

    def begin(self, state: State) -> None:
        resumed = f", {state.resumed} of them done before" if state.resumed else ""
        self._told, self._best = state.done, state.best
        self._print(f"{state.place} {state.case}: {state.trials} trials{resumed}")

    def trial(self, state: State) -> None:
        better = state.best < NEWS * self._best
        if not better and state.done - self._told < STEP * state.trials:
            return
        self._told, self._best = state.done, state.best
        self._print(f"  {state.done}/{state.trials} {said(state)}")

    def end(self, state: State, result: WorkloadResult) -> None:
        self._print(
            f"  {result.microseconds:.4g} us, untuned {result.untuned_microseconds:.4g} us: "
            f"{result.speedup:.2f}x{failed(state)}"
        )

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)


def said(state: State) -> str:
    """The best so far, failures and the time left, in a line."""
    parts = []
    if state.best < float("inf"):
        gain = f" ({state.untuned / state.best:.2f}x untuned)"
        parts.append(f"best {state.best:.4g} us{gain}, {state.rate()}")
    left = state.seconds_left
    text = ", ".join(parts) + failed(state)
    return text if left is None else f"{text}, {duration(left)} left"


def failed(state: State) -> str:
    """The failures by cause, behind a comma; nothing where there are none."""
    causes = ", ".join(f"{number} {cause}" for cause, number in state.failures.items())
    return f", failed: {causes}" if causes else ""


def duration(seconds: float) -> str:
    """A time as people say it: "45 s", "3 min", "1.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
