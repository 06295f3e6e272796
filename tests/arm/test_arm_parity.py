"""The parity tests once more, every model of theirs compiled for ARM and run by an ARM Python.

They run in processes of their own, in which `on_board` turns `tl.compile` to the board.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from machine import REPOSITORY, Machine

pytestmark = pytest.mark.arm

TARGET = "neoverse-n1"
HERE = Path(__file__).parent
# Two shares of about the same time, each with a board of its own.
SHARES = (
    (
        "test_parity_dense.py",
        "test_parity_models.py",
        "test_parity_chain.py",
        "test_parity_shapes.py",
    ),
    (
        "test_parity_activations.py",
        "test_parity_bag.py",
        "test_parity_digits.py",
        "test_parity_embedding.py",
        "test_parity_merges.py",
        "test_parity_normalization.py",
    ),
)
# One looks at the memory of this process, where nothing runs; the other names targets of x86.
EVERY = "not what_passes and not without_byte_products"


def start(share: tuple[str, ...], log: Path) -> subprocess.Popen[bytes]:
    files = [str(REPOSITORY / "tests/parity" / name) for name in share]
    path = os.pathsep.join([str(HERE), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "on_board", "-k", EVERY, *files],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": path, "ON_BOARD": TARGET},
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def test_the_parity_cases_of_all_layers_agree_on_arm(machine: Machine, tmp_path: Path) -> None:
    logs = [tmp_path / f"share{place}.log" for place in range(len(SHARES))]
    running = [start(share, log) for share, log in zip(SHARES, logs, strict=True)]
    failed = []
    for process, log in zip(running, logs, strict=True):
        if process.wait():
            failed.append(log.read_text()[-6000:])
    assert not failed, "\n".join(failed)
    assert all(" passed" in log.read_text() for log in logs)
