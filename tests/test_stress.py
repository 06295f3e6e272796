"""A small part of `python -m tests.stress`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_calls_between_errors_signals_forks_and_exits_are_right() -> None:
    command = [sys.executable, "-m", "tests.stress", "--calls", "8000", "--threads", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for what in ("bound calls", "refusals", "forks", "exits", "signals"):
        assert f" {what}" in done.stdout
