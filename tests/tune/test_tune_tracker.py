"""What a tracker, or something else at its port, may answer."""

from __future__ import annotations

import itertools
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tvmlayers.errors import TuneError
from tvmlayers.tune import tracker
from tvmlayers.tune.tracker import Address, servers_of

MAGIC = struct.pack("<i", tracker.MAGIC)
SUMMARY = {
    "server_info": [{"key": "server:board"}, {"key": "server:board"}, {"key": "server:other"}],
    "queue_info": {"board": {"free": 1, "pending": 0}},
}


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[Address]:
    """The address of something that answers one connection like this."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):  # who asked went away
            answer(connection)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield Address("127.0.0.1", listener.getsockname()[1])
        thread.join()


def saying(text: bytes, size: int | None = None) -> Callable[[socket.socket], None]:
    """A tracker that gives this as its summary."""

    def answer(connection: socket.socket) -> None:
        connection.recv(4)
        connection.sendall(MAGIC)
        connection.recv(64)
        connection.sendall(struct.pack("<i", len(text) if size is None else size) + text)

    return answer


def test_servers_are_counted_by_key() -> None:
    with answering(saying(json.dumps([0, SUMMARY]).encode())) as address:
        found = servers_of(address, "board")
    assert (found.total, found.free, found.keys) == (2, 1, ("board", "other"))


def test_bytes_that_drip_end_with_the_time_for_the_whole_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = threading.Event()

    def drip(connection: socket.socket) -> None:
        saying(b"", size=1000)(connection)
        for _ in range(1000):
            connection.sendall(b" ")
            if left.wait(0.01):
                return

    # Each look at the clock finds it a second later: however slow this machine is.
    monkeypatch.setattr(tracker, "monotonic", map(float, itertools.count()).__next__)
    with answering(drip) as address:
        try:
            with pytest.raises(TuneError, match="no whole answer within 5 s"):
                servers_of(address, "board")
        finally:
            left.set()


@pytest.mark.parametrize(
    "summary",
    [
        [],
        {},
        {"server_info": 3, "queue_info": {}},
        {"server_info": ["board"], "queue_info": {}},
        {"server_info": [], "queue_info": {"board": 1}},
        {"server_info": [], "queue_info": {"board": {}}},
        {"server_info": [], "queue_info": {"board": {"free": "many"}}},
        {"server_info": [], "queue_info": {"board": {"free": float("inf")}}},
    ],
)
def test_a_summary_that_is_none_is_refused(summary: Any) -> None:
    with (
        answering(saying(json.dumps([0, summary]).encode())) as address,
        pytest.raises(TuneError, match="is no TVM RPC tracker"),
    ):
        servers_of(address, "board")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (b"", -1),
        (b"", 2**31 - 1),
        (b"{}", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b"[0, {", None),
    ],
)
def test_what_is_no_json_of_a_tracker_is_refused(text: bytes, size: int | None) -> None:
    with (
        answering(saying(text, size)) as address,
        pytest.raises(TuneError, match="is no TVM RPC tracker"),
    ):
        servers_of(address, "board")


@pytest.mark.parametrize("host", ["a" * 70, "a..b"])
def test_a_host_that_has_no_name_cannot_be_reached(host: str) -> None:
    with pytest.raises(TuneError, match="cannot be reached"):
        servers_of(Address(host, 9190), "board")
