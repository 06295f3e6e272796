"""`tvmlayers demo`: train, compile and compare with PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tvmlayers.cli.console import ERR, OUT, count
from tvmlayers.errors import MissingDependencyError


def add_commands(commands: Any) -> None:
    """Adds `demo` to the sub-parsers."""
    command = commands.add_parser("demo", help="train, compile and compare with PyTorch")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    command.add_argument("--threads", type=count, help="for both sides; default: physical cores")
    command.add_argument("--quick", action="store_true", help="little data, times mean nothing")
    command.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> int:
    """Runs the demonstration; 1 when any prediction differs from PyTorch's."""
    try:
        from tvmlayers.demo import report, run
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the demonstration needs {error.name}: pip install 'tvmlayers[demo]'"
        ) from error

    settings = run.QUICK if args.quick else run.FULL
    # No refreshing thread: it would wake up in the middle of what is being timed.
    progress = Progress(
        BarColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=ERR,
        auto_refresh=False,
        transient=True,
    )
    with progress:
        bar = progress.add_task("", total=settings.stages)

        def begin(stage: str) -> None:
            if not ERR.is_terminal:
                ERR.print(stage)
            progress.update(bar, advance=1, description=stage, refresh=True)

        found = run.run(settings, begin, args.threads)
    report.print_report(found, OUT)
    if args.json is not None:
        report.write_json(found, args.json)
    return 0 if found.succeeded else 1
