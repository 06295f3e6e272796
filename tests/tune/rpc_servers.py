"""TVM's tracker and RPC servers on loopback, each a process group of its own."""

from __future__ import annotations

import os
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
SECONDS = 30.0


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


def at(port: int) -> list[str]:
    """The options for this very port."""
    return ["--port", str(port), "--port-end", str(port + 1)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a server with the processes that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for_servers(address: str, key: str, count: int, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if servers_of(Address.of(address), key).free == count:
                return
        except TuneError:  # the tracker is not up yet
            pass
        time.sleep(0.1)
    raise AssertionError(f"{count} servers were not there within {seconds:g} s")
