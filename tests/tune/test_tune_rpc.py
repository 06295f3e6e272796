"""Two RPC servers on loopback behind a tracker, each a process group of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tuning_folders import Folders

import tvmlayers as tl
from tvmlayers.errors import TuneError
from tvmlayers.tune import State
from tvmlayers.tune.progress import Silent
from tvmlayers.tune.tracker import Address, servers_of

KEY = "board"


@dataclass
class Devices:
    """The tracker's address, the servers and their logs."""

    address: str
    servers: list[subprocess.Popen[bytes]]
    logs: list[Path]

    def used(self) -> list[int]:
        """How many sessions each server had."""
        return [log.read_text().count("connected from") for log in self.logs]


def start(module: str, log: Path, without_torch: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TVM_NUM_THREADS": "1", "PYTHONPATH": str(without_torch)}
    command = [sys.executable, "-m", module, "--host", "127.0.0.1", *arguments]
    with log.open("wb") as file:
        return subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[Devices]:
    # TVM imports torch where it finds it, in each of the processes: seconds each.
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n")
    ports = [free_port() for _ in range(3)]
    address = f"127.0.0.1:{ports[0]}"
    at = ["--port", str(ports[0]), "--port-end", str(ports[0] + 1)]
    started = [start("tvm.exec.rpc_tracker", tmp_path / "tracker.log", tmp_path, *at)]
    logs = [tmp_path / f"server{number}.log" for number in (1, 2)]
    for port, log in zip(ports[1:], logs, strict=True):
        at = ["--port", str(port), "--port-end", str(port + 1), "--tracker", address, "--key", KEY]
        started.append(start("tvm.exec.rpc_server", log, tmp_path, *at))
    try:
        wait_for_servers(address, 2)
        yield Devices(address, started[1:], logs)
    finally:
        for process in started:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a server with the processes that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for_servers(address: str, count: int) -> None:
    for _ in range(300):
        try:
            if servers_of(Address.of(address), KEY).free == count:
                return
        except TuneError:  # the tracker is not up yet
            pass
        time.sleep(0.1)
    raise AssertionError(f"{count} servers were not there within 30 s")


class Killer(Silent):
    """Kills a server after some trials."""

    def __init__(self, server: subprocess.Popen[bytes], after: int) -> None:
        self.server, self.after = server, after

    def trial(self, state: State) -> None:
        if state.done == self.after:
            end(self.server)


def test_two_devices_are_used_at_once_and_one_may_go_away(
    devices: Devices, folders: Folders
) -> None:
    named = {"threads": 1, "tracker": devices.address, "key": KEY, **folders.named}
    found = tl.tune("embedding 500x16x64", trials=4, **named).workloads[0]
    assert (found.trials, found.failures) == (4, {})
    assert all(devices.used())
    assert {line["device"] for line in folders.trials()} == {KEY}
    wait_for_servers(devices.address, 2)

    killer = Killer(devices.servers[0], after=7)
    found = tl.tune("embedding 500x16x64", trials=12, progress=killer, **named).workloads[0]
    assert (found.trials, found.measured) == (12, 8)
    assert set(found.failures) <= {"device lost"}
    assert sum(found.failures.values()) <= 1

    with pytest.raises(TuneError, match="no server of key 'other'; keys there: board"):
        tl.tune("embedding 500x16x64", trials=16, **{**named, "key": "other"})
