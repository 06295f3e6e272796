"""The command line where its outputs cannot hold, or do not take, what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tvmlayers as tl
from tvmlayers import cli

HERE = str(Path(tl.__file__).parent.parent)
LIST = ["records", "list", "--target", "znver5", "--kind", "softmax"]


def command(*argv: str, **environment: str) -> dict[str, object]:
    """How to start the command line: arguments of `subprocess.run`."""
    inherited = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
    return {
        "args": [sys.executable, "-m", "tvmlayers", *argv],
        "env": {**inherited, "PYTHONPATH": HERE, **environment},
        "stdin": subprocess.DEVNULL,
        "timeout": 120,
    }


ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "gbk"}, "?s"),
        ({"PYTHONIOENCODING": "ascii"}, "?s"),
        ({"PYTHONIOENCODING": "koi8-r"}, "?s"),
        ({"PYTHONIOENCODING": "latin-1"}, "\u00b5s"),
        ({"PYTHONIOENCODING": "utf-8"}, "\u00b5s"),
        ({"PYTHONIOENCODING": "ascii:backslashreplace"}, "\\xb5s"),
        (ASCII, "?s"),
    ],
)
def test_characters_that_an_encoding_lacks_are_replaced(
    environment: dict[str, str], shown: str
) -> None:
    done = subprocess.run(**command(*LIST, **environment), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    encoding = environment.get("PYTHONIOENCODING", "ascii").partition(":")[0]
    assert shown in done.stdout.decode(encoding)


def test_a_name_of_a_folder_that_is_no_text_is_shown(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    done = subprocess.run(**command("records", "prune", "--folder", folder), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"/caf\\udce9: 0 dropped\n")


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("argv", [["targets"], ["targets", "--json"], LIST])
def test_a_reader_that_went_away_ends_it_without_a_word(argv: list[str], buffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        started = command(*argv, PYTHONUNBUFFERED=buffered)
        done = subprocess.run(**started, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("argv", [["inspect", "absent.tvml"], ["no-such-command"]])
def test_an_error_that_nobody_reads_is_in_the_status(argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(**command(*argv), stdout=subprocess.PIPE, stderr=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
@pytest.mark.parametrize("argv", [["targets"], ["targets", "--json"], ["--help"]])
def test_an_output_that_is_full_is_told_in_one_line(argv: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(**command(*argv), stdout=full, stderr=subprocess.PIPE)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, line[:11]) == (2, b"tvmlayers: ")
    assert b"No space left" in line


@pytest.mark.parametrize("argv", [["targets", "--json"], ["targets"], ["--version"]])
def test_it_runs_with_its_outputs_closed(argv: list[str]) -> None:
    shell = 'exec "$@" 0<&- 1>&- 2>&-'
    started = command(*argv)
    started["args"] = ["/bin/sh", "-c", shell, "sh", *started["args"]]
    assert subprocess.run(**started).returncode == 0


def test_it_runs_in_a_process_that_has_no_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["targets", "--json"]) == 0
    assert cli.main(["inspect", "absent.tvml"]) == 2
