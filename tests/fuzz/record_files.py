"""Files of records with changed lines: what is read of them must be records, and writing to them
must lose none."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import warnings
from pathlib import Path
from random import Random
from typing import Any

import tvmlayers as tl
from tests.fuzz.mutation import HOSTILE, mutated, text_of
from tvmlayers import cli, records, targets
from tvmlayers.schedule import Selector
from tvmlayers.workload import Workload

TARGET = "x86-64-v3"


def made(m: int, **changes: Any) -> records.Record:
    """A record of a dense layer for m rows."""
    sizes = {"kind": "dense", "m": m, "k": 64, "n": 32, "dtype": "float32", "activation": "relu"}
    fields: dict[str, Any] = {
        "workload": Workload.from_dict(sizes),
        "target": TARGET,
        "space": "gemm",
        "decisions": {"tile": "4x2", "grain_kmacs": 48},
        "microseconds": 2.0 + m,
        "untuned_microseconds": 3.0 + m,
        "trials": 64,
        "threads": 1,
        "tvm": records.installed_tvm(),
        "date": "2026-11-22",
        "data": {"cold": False},
    }
    return records.Record(**{**fields, **changes})


def prepare(folder: Path) -> None:
    """Write the file whose records are changed."""
    records.add([made(1), made(8), made(64, of_limit=0.5), made(65, modelled="mca")], folder / "r")
    records.file_of(folder / "r", TARGET, "dense").rename(folder / "good.json")


class Records:
    """Changes a file of records; reads, lists, merges, prunes and adds to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.good = json.loads((folder / "good.json").read_text())

    def change(self, rng: Random) -> str:
        """Write a changed file of records; says what was changed."""
        changed, told = mutated(self.good, rng)
        if rng.random() < 0.05:
            changed = rng.choice(HOSTILE)
        content = bytearray(text_of(changed).replace("}, {", "},\n{").encode())
        if rng.random() < 0.2:
            content[rng.randrange(len(content))] = rng.randrange(256)
        shutil.rmtree(self.folder / "r")
        path = records.file_of(self.folder / "r", TARGET, "dense")
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return told

    def use(self) -> None:
        """All that one does with records; TvmLayersError where they are refused."""
        folder = self.folder / "r"
        os.environ["TVMLAYERS_RECORDS"] = str(folder)
        quiet = io.StringIO()
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            warnings.simplefilter("ignore", tl.RecordWarning)
            stack.enter_context(contextlib.redirect_stdout(quiet))
            stack.enter_context(contextlib.redirect_stderr(quiet))
            before = [record for file in records.read_all([folder]) for record in file.records]
            for line in (["list"], ["list", "--json"], ["prune", "--dry-run"]):
                assert cli.main(["records", *line, "--folder", str(folder)]) in (0, 2)
            records.load(TARGET, "dense")
            target = targets.TARGETS[TARGET]
            Selector(target, True).regimes(made(8).workload)
            assert cli.main(["records", "diff", str(folder), str(self.folder / "good.json")]) == 0
            with contextlib.suppress(tl.RecordError):  # the whole file is none of ours
                records.add([made(3)], folder)
                left = [record for file in records.read_all([folder]) for record in file.records]
                kept = {record.identity for record in left}
                assert kept == {record.identity for record in before} | {made(3).identity}
        assert "\x1b" not in quiet.getvalue(), "an escape reaches the terminal"
