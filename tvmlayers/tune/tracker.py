"""What a TVM RPC tracker says of its devices, asked with patience for a few seconds only."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from time import monotonic

from tvmlayers.errors import ConfigError, TuneError

MAGIC = 0x2F271  # of tvm.rpc.base: trackers answer it with itself
SUMMARY = 6
SECONDS = 5.0  # for the whole answer
LARGEST = 16 << 20  # bytes of an answer
# What reading an answer may raise that is no summary; RecursionError: lists in lists in lists.
_NOT_AS_EXPECTED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


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
    keys, free = _ask(address)
    return Servers(keys.count(key), free.get(key, 0), tuple(sorted(set(keys))))


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


def _ask(address: Address) -> tuple[list[str], dict[str, int]]:
    """(the key of each server, how many of each key are free), within SECONDS."""
    deadline = monotonic() + SECONDS
    try:
        with socket.create_connection((address.host, address.port), SECONDS) as connection:
            return _asked(connection, deadline)
    except TimeoutError as error:
        raise TuneError(
            f"the tracker at {address} gave no whole answer within {SECONDS:g} s; see whether it "
            "still runs, or correct --tracker"
        ) from error
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host can be so
        said = getattr(error, "strerror", None) or error
        raise TuneError(
            f"the tracker at {address} cannot be reached: {said}; start one "
            f"with python -m tvm.exec.rpc_tracker --host 127.0.0.1 --port {address.port} "
            f"--port-end {address.port + 1}, or correct --tracker"
        ) from error
    except _NoTracker as error:
        raise TuneError(f"what answers at {address} is no TVM RPC tracker") from error


class _NoTracker(Exception):
    """The answer is not one of a tracker."""


def _asked(connection: socket.socket, deadline: float) -> tuple[list[str], dict[str, int]]:
    try:
        connection.sendall(struct.pack("<i", MAGIC))
        if _number(connection, deadline) != MAGIC:
            raise _NoTracker
        said = json.dumps([SUMMARY]).encode()
        connection.sendall(struct.pack("<i", len(said)) + said)
        size = _number(connection, deadline)
        _, summary = json.loads(_receive(connection, size, deadline))
        keys = [str(each.get("key", "")).partition(":")[2] for each in summary["server_info"]]
        return keys, {key: int(each["free"]) for key, each in summary["queue_info"].items()}
    except _NOT_AS_EXPECTED as error:
        raise _NoTracker from error


def _number(connection: socket.socket, deadline: float) -> int:
    (number,) = struct.unpack("<i", _receive(connection, 4, deadline))
    return int(number)


def _receive(connection: socket.socket, size: int, deadline: float) -> bytes:
    """So many bytes; TimeoutError where they are not all there at the deadline."""
    if not 0 <= size <= LARGEST:
        raise _NoTracker
    received = bytearray()
    while len(received) < size:
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        chunk = connection.recv(min(size - len(received), 1 << 16))
        if not chunk:
            raise _NoTracker
        received += chunk
    return bytes(received)
