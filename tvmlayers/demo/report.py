"""What a demonstration found, as tables for people and as JSON for scripts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tvmlayers.demo.run import Demonstration
from tvmlayers.printing import styled
from tvmlayers.tables import kib, table

# Cores. A peer that waits for its threads at barriers loses milliseconds to any competitor.
MOST_OTHER_WORK = 0.1


def print_report(found: Demonstration, console: Console) -> None:
    """Tables of accuracy, time per call and sizes, then one line that says whether all agreed."""
    console.print(_build_table(found))
    console.print(_accuracy_table(found))
    console.print(_time_table(found))
    console.print(
        f"Target {found.target}, {found.threads} threads on both sides, Python {found.python}, "
        f"PyTorch {found.torch}.\n"
        f"Loading the compiler took {found.compiler_import_seconds:.1f} s, once for each process. "
        f"Running an artefact loads {kib(found.runtime_library_bytes)} of runtime library.",
    )
    if found.busy_elsewhere > MOST_OTHER_WORK:
        console.print(
            styled(
                f"Other programs kept {found.busy_elsewhere:.1f} cores busy: the times "
                "above mean little, PyTorch's least of all. Run this on an idle machine.",
                "yellow",
            )
        )
    held_out = sum(comparison.held_out for comparison in found.comparisons)
    disagreements = sum(comparison.disagreements for comparison in found.comparisons)
    verdict = (
        styled(f"all {held_out} held-out predictions equal PyTorch's", "green")
        if disagreements == 0
        else styled(
            f"{disagreements} of {held_out} held-out predictions differ from PyTorch's", "red"
        )
    )
    console.print(verdict.append(f"; {found.seconds:.0f} s in all.", "default"))


def write_json(found: Demonstration, path: Path) -> None:
    """The same as one JSON object; times in microseconds or seconds, as their names say."""
    path.write_text(json.dumps({**asdict(found), "succeeded": found.succeeded}, indent=2) + "\n")


def _build_table(found: Demonstration) -> Table:
    """Every compiled model: what it cost and how large its artefact is."""
    numbers = ("compile", "artefact", "code", "weights", "largest error")
    made = table("Compiled, verified against PyTorch in float64", ("model",), numbers)
    for built in found.built:
        colour = "green" if built.verified else "red"
        made.add_row(
            built.name,
            f"{built.compile_seconds:.2f} s",
            kib(built.artefact_bytes),
            kib(built.library_bytes),
            kib(built.weights_bytes),
            styled(f"{built.largest_error:.1e}", colour),
        )
    return made


def _accuracy_table(found: Demonstration) -> Table:
    numbers = ("held out", "accuracy", "PyTorch's", "different", "trained in")
    made = table(
        "Trained with tvmlayers, run on held-out data",
        ("task",),
        numbers,
    )
    for row in found.comparisons:
        made.add_row(
            row.task,
            str(row.held_out),
            f"{row.accuracy:.2%}",
            f"{row.torch_accuracy:.2%}",
            styled(row.disagreements, "red" if row.disagreements else "green"),
            f"{row.train_seconds:.1f} s",
        )
    return made


def _time_table(found: Demonstration) -> Table:
    numbers = ("batch", "tvmlayers", "PyTorch eager", "speedup")
    made = table("Microseconds per call, median", ("model",), numbers)
    for row in found.comparisons:
        for timing in row.timings:
            made.add_row(
                row.built.name,
                str(timing.batch),
                f"{timing.ours_us:.1f}",
                f"{timing.torch_us:.1f}",
                f"{timing.speedup:.2f}x",
            )
    return made
