"""The command line: `tvmlayers COMMAND`, a module of commands each.

Exit status: 0 done, 1 a check failed, 2 a wrong call or input, told in one line on stderr,
130 interrupted, 141 where the reader of its output has gone away.
"""

from __future__ import annotations

import argparse
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import tvmlayers as tl
from tvmlayers.cli import demo, doctor, explain, hardware, models, records, tune
from tvmlayers.cli.console import fail, flushed, make_printable, note
from tvmlayers.errors import RecordWarning, TvmLayersError


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of one command; `argv` without the program's name."""
    make_printable()
    try:
        with _notes_of_records(), flushed():
            args = _parser().parse_args(argv)
            status: int = args.run(args)
    except TvmLayersError as error:
        return fail(str(error))
    except BrokenPipeError:  # `tvmlayers inspect ... | head`
        return 128 + signal.SIGPIPE  # what a shell says of the tools that the signal ends
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return fail("interrupted", status=130)
    return status


@contextmanager
def _notes_of_records() -> Iterator[None]:
    """Warnings about records become one line each, without Python's place and source line."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, RecordWarning):
                note(f"warning: {message}")
            else:
                shown(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tvmlayers", description="Embedding and dense layers compiled for one target."
    )
    parser.add_argument("--version", action="version", version=f"tvmlayers {tl.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (hardware, doctor, models, explain, tune, records, demo):
        group.add_commands(commands)
    return parser
