"""Where commands print to, and in which forms."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import NoReturn, TextIO

from tvmlayers.printing import PlainConsole


class _Terminal(PlainConsole):
    """A console that leaves a closed output to the command: it raises BrokenPipeError."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


OUT = _Terminal()
ERR = _Terminal(stderr=True)


def make_printable() -> None:
    """From now on characters that an output's encoding lacks are replaced there.

    An encoding whose errors are handled otherwise, by PYTHONIOENCODING, stays as it is.
    """
    for stream in (sys.stdout, sys.stderr):
        # Under the C locale Python lets the bytes of file names through, and refuses others.
        if isinstance(stream, TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


@contextmanager
def flushed() -> Iterator[None]:
    """What was printed inside has left the process at the end; OSError where stdout's cannot.

    An output that takes nothing more is silent from then on, at the exit of the process too.
    """
    try:
        yield
    finally:
        for stream in (sys.stderr, sys.stdout):
            try:
                if stream is not None:  # it is None where the process was started without
                    stream.flush()
            except OSError:
                _silence(stream)
                if stream is sys.stdout:
                    raise


def _silence(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def print_json(value: object) -> int:
    """0, the status of a command that ends with its result as JSON."""
    print(json.dumps(value, indent=2))
    return 0


def fail(message: str, status: int = 2) -> int:
    """`status`, after one line on stderr."""
    note(message)
    return status


def note(message: str) -> None:
    """Prints one line on stderr, however many `message` has; nothing where that is closed."""
    line = f"tvmlayers: {' '.join(message.split())}"
    try:
        ERR.print(line, soft_wrap=True)
    except OSError:  # the exit status still says it
        _silence(sys.stderr)


def count(text: str) -> int:
    """An argument that is a whole number from 1 on."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return number
