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


class Fake:
    """Times that follow from the decisions alone, at once."""

    pause = 0.0

    def open(self, **_: Any) -> dict[str, Any]:
        return {"seconds": 1e-3}

    def trial(self, decisions: dict[str, Any]) -> dict[str, Any]:
        if os.environ.get(TRIED):
            with Path(os.environ[TRIED]).open("a") as file:
                file.write(f"{sorted(decisions.items())}\n")
        time.sleep(self.pause)
        return {"ratio": ratio(decisions)}

    def compare(self, finalists: list[dict[str, Any]]) -> dict[str, Any]:
        return {"seconds": [1e-3 * ratio(decisions) for decisions in finalists]}

    def limits(self, **_: Any) -> dict[str, Any]:
        return {"flops": 1e12, "bytes": 1e11}


class Slow(Fake):
    """A trial takes long enough to be interrupted."""

    pause = 0.1


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
            time.sleep(600)
        return super().trial(decisions)


def is_bad(decisions: dict[str, Any]) -> bool:
    """Of one grain in two; the analytic grain is good."""
    return decisions["grain_kib"] in (12, 24, 384)


def ratio(decisions: dict[str, Any]) -> float:
    """Between 0.5 and 1.5, other for others."""
    text = repr(sorted(decisions.items())).encode()
    return 0.5 + zlib.crc32(text) % 1000 / 1000
