"""The parent's side of a worker: a process that is asked, waited for and, if it must be, killed."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tvmlayers.errors import TuneError

START_SECONDS = 120.0
SLICE_SECONDS = 0.1


class WorkerFailed(Exception):
    """The process crashed or hung; it is gone, and the next question starts another."""


class Worker:
    """A process of `tvmlayers.tune.worker`, started when it is first asked."""

    def __init__(self, threads: int, environment: Mapping[str, str] | None = None) -> None:
        """threads: of TVM's pool there; environment: more variables."""
        self._environment = {
            **os.environ,
            **(environment or {}),
            # Read by TVM when it is loaded: it would start half as many threads by itself.
            "TVM_NUM_THREADS": str(threads),
            # Stock kernels run on TVM's own pool, whose workers share the caller's CPU when bound.
            "TVM_BIND_THREADS": "0",
            # NumPy's own threads would go on spinning into what is measured next.
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Any = None
        self._buffer = b""
        self._is_over = False

    @property
    def is_alive(self) -> bool:
        """Whether what was asked before still holds there."""
        return self._process is not None and self._process.poll() is None

    def ask(self, op: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        """The answer, {"cause": ...} where the operation failed.

        WorkerFailed when the process ended or gave no answer within `timeout` seconds.
        """
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")
            process.stdin.flush()
            return self._answer(timeout)
        except (BrokenPipeError, EOFError):
            raise WorkerFailed(self._reason()) from None
        except BaseException:
            self.close()  # an answer that comes later would be taken for that to the next question
            raise

    def kill(self) -> None:
        """End the process for good, from any thread: a question that waits there fails."""
        self._is_over = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process; harmless when there is none."""
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        process.kill()
        process.wait()
        self._errors.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        if self._is_over:
            raise WorkerFailed("stopped")
        self._buffer = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tvmlayers.tune.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for the parent alone
        )
        if self._is_over:  # since the look above
            self._process.kill()
        try:
            self._answer(START_SECONDS)
        except (EOFError, WorkerFailed):
            said = self._last_words()
            self.close()
            raise TuneError(
                f"the process that measures did not start: {said or 'it said nothing'}"
            ) from None
        return self._process

    def _answer(self, timeout: float) -> dict[str, Any]:
        """The next line of the process; EOFError at its end."""
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        waited = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                begin = time.monotonic()
                is_ready = selector.select(SLICE_SECONDS)
                # A machine that slept, or a stopped job, was not waiting all that time.
                waited += min(time.monotonic() - begin, 2 * SLICE_SECONDS)
                if waited >= timeout:
                    raise WorkerFailed(f"timed out after {timeout:g} s")
                if not is_ready:
                    continue
                chunk = os.read(pipe, 1 << 16)
                if not chunk:
                    raise EOFError
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _reason(self) -> str:
        """Why the process ended: a signal's name, or what it said last."""
        if self._process is None:
            return "stopped"
        status = self._process.wait()
        said = self._last_words()
        self.close()
        if status < 0:
            return f"crashed: signal {-status} ({signal.Signals(-status).name})"
        return f"crashed: exit status {status}" + (f", {said}" if said else "")

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read()[-4096:].decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else ""
