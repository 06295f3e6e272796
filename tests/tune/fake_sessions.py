"""What stands in for a worker's measuring: it answers as the real one does, or misbehaves."""

from __future__ import annotations

import os
import signal
import time
import zlib
from pathlib import Path
from typing import Any

TRIED = "TVMLAYERS_TEST_TRIED"
"""A file that gets a line for each trial that is begun."""

HALTS_AFTER = 9
FOREVER = 1e6


class Fake:
    """Times that follow from the decisions alone, at once."""

    def open(self, **_: Any) -> dict[str, Any]:
        return {"seconds": 1e-3}

    def trial(self, decisions: dict[str, Any]) -> dict[str, Any]:
        if os.environ.get(TRIED):
            with Path(os.environ[TRIED]).open("a") as file:
                file.write(f"{sorted(decisions.items())}\n")
        return {"ratio": ratio(decisions)}

    def compare(self, finalists: list[dict[str, Any]]) -> dict[str, Any]:
        return {"seconds": [1e-3 * ratio(decisions) for decisions in finalists]}

    def limits(self, **_: Any) -> dict[str, Any]:
        return {"flops": 1e12, "bytes": 1e11}


class Halting(Fake):
    """Tries some, and begins another that never ends."""

    def __init__(self) -> None:
        self._left = HALTS_AFTER

    def open(self, **_: Any) -> dict[str, Any]:
        return {"seconds": 10.0}  # a trial of so slow a kernel may take half an hour

    def trial(self, decisions: dict[str, Any]) -> dict[str, Any]:
        found = super().trial(decisions)
        if not self._left:
            time.sleep(FOREVER)
        self._left -= 1
        return found


class Crashing(Fake):
    """Dies of a segmentation fault when it is asked for an odd grain."""

    def trial(self, decisions: dict[str, Any]) -> dict[str, Any]:
        if is_bad(decisions):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().trial(decisions)


class Hanging(Fake):
    """Never answers when it is asked for such a grain."""

    def trial(self, decisions: dict[str, Any]) -> dict[str, Any]:
        if is_bad(decisions):
            time.sleep(FOREVER)
        return super().trial(decisions)


def is_bad(decisions: dict[str, Any]) -> bool:
    """Of one grain in two; the analytic grain is good."""
    return decisions["grain_kib"] in (12, 24, 384)


def ratio(decisions: dict[str, Any]) -> float:
    """Between 0.5 and 1.5, other for others."""
    text = repr(sorted(decisions.items())).encode()
    return 0.5 + zlib.crc32(text) % 1000 / 1000
