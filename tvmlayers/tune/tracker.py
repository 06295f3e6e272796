"""What a TVM RPC tracker says of its devices, asked with patience for a few seconds only."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

from tvmlayers.errors import ConfigError, TuneError

MAGIC = 0x2F271  # of tvm.rpc.base: trackers answer it with itself
SUMMARY = 6
SECONDS = 5.0


@dataclass(frozen=True)
class Address:
    """HOST:PORT of a tracker."""

    host: str
    port: int

    @staticmethod
    def of(text: str) -> Address:
        """The address in "127.0.0.1:9190"; ConfigError for anything else."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ConfigError(f"a tracker is HOST:PORT, such as 127.0.0.1:9190, got {text!r}")
        return Address(host, int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Servers:
    """How many devices of a key there are, and how many of them are free now."""

    total: int
    free: int
    keys: tuple[str, ...]


def servers_of(address: Address, key: str) -> Servers:
    """What the tracker says of `key`; TuneError where it cannot be reached or is no tracker."""
    summary = _summary(address)
    keys = [str(server.get("key", "")).partition(":")[2] for server in summary["server_info"]]
    free = summary["queue_info"].get(key, {}).get("free", 0)
    return Servers(keys.count(key), int(free), tuple(sorted(set(keys))))


def need_servers(address: Address, key: str) -> int:
    """How many devices of `key` there are; TuneError where there is none."""
    found = servers_of(address, key)
    if found.total == 0:
        known = ", ".join(found.keys) or "none"
        raise TuneError(
            f"the tracker at {address} has no server of key {key!r}; keys there: {known}. Start "
            f"one: python -m tvm.exec.rpc_server --tracker {address} --key {key}"
        )
    return found.total


def _summary(address: Address) -> dict[str, Any]:
    try:
        with socket.create_connection((address.host, address.port), SECONDS) as connection:
            connection.sendall(struct.pack("<i", MAGIC))
            if _number(connection) != MAGIC:
                raise ValueError
            said = json.dumps([SUMMARY]).encode()
            connection.sendall(struct.pack("<i", len(said)) + said)
            _, summary = json.loads(_receive(connection, _number(connection)))
            return dict(summary)
    except OSError as error:
        raise TuneError(
            f"the tracker at {address} cannot be reached: {error.strerror or error}; start one "
            f"with python -m tvm.exec.rpc_tracker --host 127.0.0.1 --port {address.port} "
            f"--port-end {address.port + 1}, or correct --tracker"
        ) from error
    except (ValueError, TypeError) as error:
        raise TuneError(f"what answers at {address} is no TVM RPC tracker") from error


def _number(connection: socket.socket) -> int:
    (number,) = struct.unpack("<i", _receive(connection, 4))
    return int(number)


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        chunk = connection.recv(size - len(received))
        if not chunk:
            raise ValueError("the connection ended early")
        received += chunk
    return received
