"""The process that measures: `python -m tvmlayers.tune.worker`, asked and answering in JSON lines.

It lives through a whole run, so that TVM is imported and the reference is built once, and it can
crash or hang without harm to what asks it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import IO, Any

from tvmlayers.lean import compiler_imports

# What replaces the measuring, in tests: "module:function" that makes an object with the same
# methods as `Session`.
HOOK = "TVMLAYERS_TUNE_WORKER"


# How a failure begins, by the exception that it came from.
KINDS = {
    "BuildFailed": "build failed",
    "WrongResult": "wrong result",
    "DeviceLost": "device lost",
}


def main() -> None:
    """Answers requests until its input ends."""
    _die_with_parent()
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes with the errors, not among the answers
    session = _session()
    _send(answers, {"ready": True})
    for line in requests:
        request = json.loads(line)
        _send(answers, _answer(getattr(session, request.pop("op")), request))


def _send(answers: IO[str], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _answer(operation: Callable[..., dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
    try:
        return operation(**request)
    except Exception as error:
        return {"cause": describe(error)}


def describe(error: BaseException) -> str:
    """The error in one line, such as "build failed: ..."."""
    name = type(error).__name__
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    said = (lines[-1] if name == "InternalError" else lines[0]) if lines else name
    text = said if len(said) <= 200 else f"{said[:200]}..."
    if name in KINDS:
        return f"{KINDS[name]}: {text}"
    return f"failed: {name}: {text}" if name not in text else f"failed: {text}"


def _session() -> Any:
    hook = os.environ.get(HOOK)
    if hook:
        module, _, name = hook.partition(":")
        return getattr(import_module(module), name)()
    with compiler_imports():
        from tvmlayers.tune.measuring import Session

        return Session()


def _die_with_parent() -> None:
    """A killed tuner takes its worker along."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to answer


if __name__ == "__main__":
    main()
