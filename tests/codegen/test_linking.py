"""Libraries for this machine: which compiler is asked to link, and how it is named."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers.codegen import link

X = np.ones((2, 6), np.float32)
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to be named")


@pytest.fixture(scope="module")
def compiled() -> tl.Compiled:
    return tl.compile(tl.Dense(4, input_dim=6))


@pytest.fixture(autouse=True)
def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def wrapper(tmp_path: Path) -> Path:
    """A program that runs the rest of its command, as ccache does, and notes that it was used."""
    path = tmp_path / "tools of mine" / "wrapper"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/used"\nexec "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def saves(compiled: tl.Compiled, folder: Path) -> None:
    compiled.save(folder / "model.tvml")
    np.testing.assert_array_equal(tl.load(folder / "model.tvml")(X), compiled(X))


@pytest.mark.parametrize("variable", ["CC", "CXX"])
@pytest.mark.parametrize("command", ["gcc -pthread", " gcc  ", "env LANG=C gcc", "'gcc' -O1"])
def test_a_command_is_split_as_a_shell_does(
    variable: str,
    command: str,
    compiled: tl.Compiled,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, command)
    saves(compiled, tmp_path)


@pytest.mark.parametrize("form", ["'{}' gcc", '"{}" gcc -pthread'])
def test_a_wrapper_runs_the_compiler(
    form: str,
    compiled: tl.Compiled,
    wrapper: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CC", form.format(wrapper))
    saves(compiled, tmp_path)
    assert (tmp_path / "used").read_text().startswith("gcc ")


def test_a_path_with_spaces_is_one_word(
    compiled: tl.Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = shutil.which("gcc")
    assert there is not None
    path = tmp_path / "my gcc"
    path.symlink_to(there)
    monkeypatch.setenv("CC", str(path))
    assert link.compiler() == [str(path)]
    saves(compiled, tmp_path)


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_name_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = link.compiler()
    monkeypatch.setenv("CC", text)
    monkeypatch.setenv("CXX", text)
    assert link.compiler() == found


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-compiler -O2", "CC names no-such-compiler, which is not found here"),
        ("'gcc", 'CC is no command: No closing quotation in "\'gcc"'),
        ("false --fast", "with false --fast failed: exit status 1"),
    ],
)
def test_a_name_that_cannot_be_used_is_an_error_of_ours(
    command: str,
    said: str,
    compiled: tl.Compiled,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CC", command)
    with pytest.raises(tl.MissingDependencyError) as caught:
        compiled.save(tmp_path / "model.tvml")
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_cannot_be_started_is_an_error_of_ours(
    compiled: tl.Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cc"
    path.write_bytes(b"\x7fELF of no machine")
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))
    with pytest.raises(tl.MissingDependencyError, match=r"linking for .* failed: .*format"):
        compiled.save(tmp_path / "model.tvml")


def test_without_a_compiler_the_error_says_what_is_needed(
    compiled: tl.Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(tl.MissingDependencyError, match="needs a C compiler such as gcc"):
        compiled.save(tmp_path / "model.tvml")


def test_words_of_a_compiler_in_another_encoding_are_shown(
    compiled: tl.Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cc"
    path.write_bytes(b"#!/bin/sh\necho 'erreur \xe9trange'\nexit 3\n")
    path.chmod(0o755)
    monkeypatch.setenv("CC", os.fspath(path))
    with pytest.raises(tl.MissingDependencyError, match=r"exit status 3: erreur .trange"):
        compiled.save(tmp_path / "model.tvml")
