"""Runs cases in child processes, so that a crash or a hang ends one of them and not all."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
import traceback
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

from tests.fuzz import artefacts, journals, models, record_files
from tvmlayers.errors import TvmLayersError

KINDS: dict[str, tuple[ModuleType, Any]] = {
    "artefacts": (artefacts, artefacts.Artefacts),
    "models": (models, models.Models),
    "records": (record_files, record_files.Records),
    "journals": (journals, journals.Journals),
}
ROOT = Path(__file__).parents[2]
HANG = 300  # seconds, thousands of times what a case takes


def run(kind: str, folder: Path, seed: int, cases: range) -> int:
    """How many cases failed; each is told."""
    KINDS[kind][0].prepare(folder)
    failures, accepted, next_case = 0, 0, cases.start
    while next_case < cases.stop:
        options = ["--seed", str(seed), "--first", str(next_case), f"--{kind}", str(cases.stop)]
        begun = next_case - 1
        command = [sys.executable, "-m", "tests.fuzz", "--work", kind, str(folder), *options]
        environment = {**os.environ, "TVMLAYERS_RECORDS": str(folder / "none")}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                word, _, rest = line.rstrip("\n").partition(" ")
                if word == "begin":
                    begun = int(rest)
                elif word == "accepted":
                    accepted += 1
                elif word == "failed":
                    failures += 1
                    again = f"python -m tests.fuzz --{kind} 1 --seed {seed} --first {begun}"
                    print(f"FAILED: {again}")
                else:
                    print(line, end="")
        if child.returncode == 0:
            break
        failures += 1
        print(f"CRASHED with {child.returncode}: ", end="")
        print(f"python -m tests.fuzz --{kind} 1 --seed {seed} --first {begun}", flush=True)
        if begun < next_case:  # not even the first case was begun
            break
        next_case = begun + 1
    print(f"{kind}: {len(cases)} cases, {accepted} accepted, {failures} failed", flush=True)
    return failures


def work(kind: str, folder: Path, seed: int, cases: range) -> int:
    """0, once all cases are tried, in this process."""
    subject = KINDS[kind][1](folder)
    for case in cases:
        print(f"begin {case}", flush=True)
        faulthandler.dump_traceback_later(HANG, exit=True)
        told = subject.change(Random(f"{seed} {kind} {case}"))
        try:
            subject.use()
        except TvmLayersError:
            pass
        except Exception:  # whatever it is: it is what the run looks for, and is told
            print("failed", flush=True)
            for line in (repr(told), *traceback.format_exc().splitlines()):
                print(f"  {line}")
        else:
            print("accepted", flush=True)
        faulthandler.cancel_dump_traceback_later()
    return 0
