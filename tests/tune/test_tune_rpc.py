"""Two RPC servers on loopback behind a tracker, each a process group of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rpc_servers import (
    SERVER,
    end,
    some_port,
    start_here,
    start_tracker,
    wait_for_servers,
    without_torch,
)
from tuning_folders import Folders

import tvmlayers as tl
from tvmlayers.errors import TuneError
from tvmlayers.tune import State
from tvmlayers.tune.progress import Silent

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


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[Devices]:
    environment = without_torch(tmp_path)
    tracker, address = start_tracker(tmp_path / "tracker.log", environment)
    started = [tracker]
    logs = [tmp_path / f"server{number}.log" for number in (1, 2)]
    for log in logs:
        options = [*some_port(), "--tracker", address, "--key", KEY]
        started.append(start_here(SERVER, log, environment, *options))
    try:
        wait_for_servers(address, KEY, 2)
        yield Devices(address, started[1:], logs)
    finally:
        for process in started:
            end(process)


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
    wait_for_servers(devices.address, KEY, 2)

    killer = Killer(devices.servers[0], after=7)
    found = tl.tune("embedding 500x16x64", trials=12, progress=killer, **named).workloads[0]
    assert (found.trials, found.measured) == (12, 8)
    assert set(found.failures) <= {"device lost"}
    assert sum(found.failures.values()) <= 1

    with pytest.raises(TuneError, match="no server of key 'other'; keys there: board"):
        tl.tune("embedding 500x16x64", trials=16, **{**named, "key": "other"})
