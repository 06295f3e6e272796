"""An emulated ARM machine as tests use it: one Python process there, asked from here."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import tempfile
import weakref
from pathlib import Path
from typing import Any

from machine import REPOSITORY, Machine

import tvmlayers as tl

DEVICE = Path(__file__).with_name("device.py")


class Board:
    """A Python process on a core such as `target`, which loads artefacts and calls them."""

    def __init__(self, machine: Machine, target: str, cpu: str | None = None) -> None:
        """cpu: what QEMU calls the core, if not the usual one."""
        self.target = target
        self._process = subprocess.Popen(
            [*machine.command(target, cpu), str(DEVICE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=machine.environment(),
            cwd=REPOSITORY,
        )
        self._numbers = itertools.count()
        self.dropped: list[int] = []  # models that nobody holds here any more

    def ask(self, operation: str, *arguments: Any) -> Any:
        """The answer; an error that was raised there is raised here."""
        while self.dropped:
            self._ask("drop", self.dropped.pop())
        return self._ask(operation, *arguments)

    def _ask(self, *request: Any) -> Any:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        pickle.dump(request, process.stdin)
        process.stdin.flush()
        try:
            answer = pickle.load(process.stdout)
        except EOFError:
            raise AssertionError(f"Python on {self.target} died: {process.wait()}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def load(self, path: str | Path, threads: int | None = None) -> int:
        """The number of the artefact at `path`, loaded there."""
        number = next(self._numbers)
        self.ask("load", number, str(path), threads)
        return number

    def put(self, compiled: tl.Compiled) -> OnBoard:
        """The model that was compiled here, saved and loaded there."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tvml"
            compiled.save(path)
            return OnBoard(self, self.load(path, compiled.threads), compiled)

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()


class OnBoard:
    """A model there, called as `Compiled` is; what it says of itself is what was compiled here."""

    def __init__(self, board: Board, number: int, here: tl.Compiled) -> None:
        self._board, self._number, self._here = board, number, here
        self.threads = here.threads
        weakref.finalize(self, board.dropped.append, number)

    def __call__(self, *inputs: Any, out: Any = None, **named: Any) -> Any:
        given = named if out is None else {**named, "out": out}
        made = self._board.ask("call", self._number, self.threads, inputs, given)
        if out is None:
            return made
        for mine, theirs in zip(_listed(out), _listed(made), strict=True):
            mine[...] = theirs
        return out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._here, name)


def _listed(arrays: Any) -> list[Any]:
    return arrays if isinstance(arrays, list) else [arrays]
