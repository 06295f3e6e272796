from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from tuning_folders import Folders

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.errors import ConfigError, TargetError, TuneError, UnknownNameError

CASE = "softmax 4x16"


@pytest.mark.parametrize(
    ("named", "error", "said"),
    [
        ({"trials": 0}, TuneError, "trials is a whole number from 1 on, got 0"),
        ({"trials": -3}, TuneError, "got -3"),
        ({"trials": 2.5}, TuneError, "got 2.5"),
        ({"effort": "thoruogh"}, UnknownNameError, "Did you mean 'thorough'"),
        ({"space": "mine"}, UnknownNameError, "unknown space 'mine'"),
        ({"target": "x86-64-v9"}, UnknownNameError, "unknown target"),
        ({"threads": 0}, ConfigError, "threads"),
        ({"seed": -1}, ConfigError, "seed"),
        ({"batches": ()}, TuneError, "batch size"),
        ({"data": {"distribution": "normal"}}, UnknownNameError, "distribution"),
        ({"tracker": "127.0.0.1:9190"}, ConfigError, "given together"),
        ({"tracker": "nowhere", "key": "k"}, ConfigError, "HOST:PORT"),
        ({"tracker": "127.0.0.1:1", "key": "k", "space": "stock"}, ConfigError, "this machine"),
    ],
)
def test_bad_input_is_refused_at_once(
    named: dict[str, Any], error: type[Exception], said: str, folders: Folders
) -> None:
    with pytest.raises(error, match=said):
        tl.tune(CASE, **{"trials": 4, **named}, **folders.named)
    assert folders.trials() == []


def test_a_target_that_this_machine_cannot_run_needs_a_tracker(
    monkeypatch: pytest.MonkeyPatch, folders: Folders
) -> None:
    monkeypatch.setattr(targets.host, "read_cpu_flags", lambda: frozenset(targets.x86.V3_FLAGS))
    with pytest.raises(TargetError, match=r"lacks: avx512f.*--tracker"):
        tl.tune(CASE, "x86-64-v4", trials=4, **folders.named)


def test_a_tracker_that_is_not_there_is_told(folders: Folders) -> None:
    with socket.socket() as silent:  # which holds the port, and does not listen
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with pytest.raises(TuneError, match=f"127.0.0.1:{port} cannot be reached"):
            tl.tune(CASE, trials=4, tracker=f"127.0.0.1:{port}", key="board", **folders.named)


def test_something_else_at_the_trackers_port_is_no_tracker(folders: Folders) -> None:
    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(16)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.close()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(TuneError, match="is no TVM RPC tracker"):
            tl.tune(CASE, trials=4, tracker=address, key="board", **folders.named)
