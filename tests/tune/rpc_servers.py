"""TVM's tracker and RPC servers on loopback, each a process group of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tvmlayers.errors import TuneError
from tvmlayers.tune.tracker import Address, servers_of

TRACKER, SERVER = "tvm.exec.rpc_tracker", "tvm.exec.rpc_server"
# Against a hang: no outcome goes by how fast a machine is.
SECONDS = 600.0


def start(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """The command on one thread of TVM's, all that it says in `log`."""
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            env={**environment, "TVM_NUM_THREADS": "1"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def without_torch(folder: Path) -> dict[str, str]:
    """An environment where TVM finds no torch to import: seconds for each of its processes."""
    (folder / "torch.py").write_text("raise ImportError('not here')\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def start_here(
    module: str, log: Path, environment: Mapping[str, str], *options: str
) -> subprocess.Popen[bytes]:
    """A module of TVM's, run by this Python."""
    command = [sys.executable, "-m", module, "--host", "127.0.0.1", *options]
    return start(command, log, environment)


def some_port() -> list[str]:
    """The options for a port that was free a moment ago, or the next free one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        first = int(listener.getsockname()[1])
    return ["--port", str(first), "--port-end", str(first + 100)]


def start_tracker(log: Path, environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """A tracker and its address, with the port that its log says it took."""
    process = start_here(TRACKER, log, environment, *some_port())
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"bind to (127\.0\.0\.1:\d+)", log.read_text())
        if found:
            return process, found[1]
        time.sleep(0.1)
    end(process)
    raise AssertionError(f"the tracker did not start: {log.read_text()}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a server with the processes that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for_servers(address: str, key: str, count: int) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            if servers_of(Address.of(address), key).free == count:
                return
        except TuneError:  # the tracker is not up yet
            pass
        time.sleep(0.1)
    raise AssertionError(f"{count} servers were not there within {SECONDS:g} s")
