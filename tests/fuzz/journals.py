"""Journals of tuning with changed lines: what is taken in of them must be trials."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from random import Random

import tvmlayers as tl
from tests.fuzz.mutation import HOSTILE, mutated, text_of
from tvmlayers import targets
from tvmlayers.tune.cases import parse
from tvmlayers.tune.journal import Conditions, Journal
from tvmlayers.tune.outcome import Outcome
from tvmlayers.tune.progress import State
from tvmlayers.tune.result import TuneResult, WorkloadResult, curve_of

CASE = parse("embedding", "5000x64x320")
CONDITIONS = Conditions("lookup", "0.27.0", 1, {"cold": False, "distribution": "uniform"})


def opened(folder: Path) -> Journal:
    """The journal of one workload."""
    return Journal(folder, targets.TARGETS["x86-64-v3"], CASE.workload, CONDITIONS)


def prepare(folder: Path) -> None:
    """Write the journal whose lines are changed."""
    journal = opened(folder / "journal")
    journal.reference = 12.0
    for grain in range(4):
        journal.add({"grain_kib": grain, "split": "rows"}, Outcome(10.0 + grain, None, 0.5))
    journal.add({"grain_kib": 9}, Outcome(None, "crashed: signal 11", 0.5))
    journal.close()
    journal.path.rename(folder / "good.jsonl")


class Journals:
    """Changes the lines of a journal and reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "journal"
        self.lines = [json.loads(line) for line in (folder / "good.jsonl").read_text().splitlines()]
        journal = opened(self.folder)
        journal.close()
        self.path = journal.path

    def change(self, rng: Random) -> str:
        """Write a changed journal; says what was changed."""
        lines, told = [], []
        for line in self.lines:
            changed, how = mutated(line, rng) if rng.random() < 0.5 else (line, "")
            changed = rng.choice(HOSTILE) if rng.random() < 0.05 else changed
            lines.append(text_of(changed).encode("utf-8", "surrogatepass"))
            told.append(how)
        content = bytearray(b"\n".join(lines) + b"\n")
        if rng.random() < 0.1:
            content[rng.randrange(len(content))] = rng.randrange(256)
        self.path.write_bytes(content)
        return str(told)

    def use(self) -> None:
        """Go on from a journal, as a run does."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tl.RecordWarning)
            journal = opened(self.folder)
        try:
            outcomes = list(journal.known.values())
            assert all(math.isfinite(each.time) or each.cause for each in outcomes)
            state = State(CASE, "1/1", 64)
            state.take(outcomes)
            state.rate(), state.failures, state.seconds_left
            curve = curve_of(outcomes)
            best = state.best if math.isfinite(state.best) else 1.0
            untuned = journal.reference or best
            found = WorkloadResult(
                CASE, "lookup", {}, best, untuned, len(outcomes), 0, state.failures, curve
            )
            result = TuneResult("x86-64-v3", 1, (found,), None, 1.0)
            str(result), json.dumps(result.to_dict(), allow_nan=False)
            journal.add({"grain_kib": 99}, Outcome(1.0))
        finally:
            journal.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tl.RecordWarning)
            again = opened(self.folder)
        assert len(again.known) == len(journal.known)
        again.close()
