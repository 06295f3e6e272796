"""Tuning over RPC on an emulated device. Its times mean nothing; its results are right or wrong."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from agreement import Twin, normal
from board import Board
from machine import Machine
from rpc_servers import end, some_port, start, start_tracker, wait_for_servers
from rpc_servers import without_torch as without

import tvmlayers as tl
from tvmlayers import records

pytestmark = pytest.mark.arm

KEY, TARGET = "emulated", "neoverse-n1"
SERVER = Path(__file__).with_name("server.py")
SCRIPT = Path(__file__).parents[2] / "schedules" / "tune_arm.py"


@pytest.fixture
def address(machine: Machine, tmp_path: Path) -> Iterator[str]:
    """A tracker here with one server inside the emulator."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.join(machine.command(TARGET))} "$@"\n')
    python.chmod(0o755)
    tracker, address = start_tracker(tmp_path / "tracker.log", without(tmp_path))
    started = [tracker]
    command = [*machine.command(TARGET), str(SERVER), str(python), "--host", "127.0.0.1"]
    options = [*some_port(), "--tracker", address, "--key", KEY]
    started.append(start([*command, *options], tmp_path / "server.log", machine.environment()))
    try:
        wait_for_servers(address, KEY, 1)
        yield address
    finally:
        for process in started:
            end(process)


def test_the_script_tunes_kernels_on_an_emulated_device_and_right_when_compiled_again(
    address: str, boards: dict[str, Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "records"
    command = [sys.executable, str(SCRIPT), "--target", TARGET, "--tracker", address, "--key", KEY]
    for case in ("dense 5x40x33:relu", "embedding 300x20x64"):
        command += ["--case", case]
    command += ["--trials", "3", "--threads", "1"]
    command += ["--records", str(kept), "--work-dir", str(tmp_path / "trials")]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    for case in ("dense 5x40x33:float32:relu", "embedding 64x300x20:float32"):
        assert re.search(rf"^{case} .*x +3 +0  ", done.stdout, re.MULTILINE), done.stdout
    written = [record for file in records.read_all([kept]) for record in file.records]
    assert {record.workload.kind for record in written} == {"dense", "embedding"}
    assert {record.target for record in written} == {TARGET}

    monkeypatch.setenv("TVMLAYERS_RECORDS", str(kept))
    twin = Twin(tl.Dense(33, "relu", input_dim=40), target=TARGET, threads=1)
    sources = {regime["source"] for regime in twin.compiled.report()[0]["regimes"]}
    assert "record" in sources
    x = normal(5, 40)
    twin.compare(boards[TARGET].put(twin.compiled)(x), twin.reference(x))

    rows = tl.Embedding(300, 20)
    table = rows.get_weights()[0]
    ids = np.arange(64).reshape(1, 64)
    compiled = tl.compile(rows, TARGET)
    np.testing.assert_array_equal(boards[TARGET].put(compiled)(ids), table[ids])
