"""From machine code to a shared library: this machine's C compiler, or a linker for another one."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvmlayers import targets
from tvmlayers.errors import MissingDependencyError
from tvmlayers.targets.target import architecture

VARIABLE = "TVMLAYERS_CROSS_CC"
# The C library's names stay open, and the process that loads the library has them all: so the code
# asks for no version of glibc, and linking it for another machine needs none of that machine's.
_FOREIGN = ("-nostdlib",)
SHARED = ("-shared", "-fPIC")
# In the order in which TVM looks for them.
_COMPILERS = ("g++", "gcc", "clang++", "clang", "c++", "cc")


def shared_library(module: Any, triple: str) -> bytes:
    """The compiled module as a shared library for `triple`."""
    needed = architecture(triple)
    is_foreign = needed != targets.machine()
    linker = cross_linker(needed) if is_foreign else compiler()
    options = [*SHARED, *_FOREIGN] if is_foreign else SHARED

    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        run(linker, [*options, "-o", output, *objects], f"linking for {needed}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lib.so"
        module.export_library(str(path), fcompile=link)
        return path.read_bytes()


def compiler() -> list[str]:
    """The command of this machine's C or C++ compiler: that in CXX or CC, else one that is found.

    MissingDependencyError where there is none.
    """
    for variable in ("CXX", "CC"):
        named = _named(variable)
        if named:
            return named
    for name in _COMPILERS:
        if shutil.which(name):
            return [name]
    raise MissingDependencyError(
        "linking a library needs a C compiler such as gcc or clang on the machine that compiles "
        "(not where the artefact runs), on the PATH or named by CC"
    )


def cross_linker(machine: str) -> list[str]:
    """The command that links for Linux on `machine`, such as "aarch64", from whatever is here.

    The command in TVMLAYERS_CROSS_CC, else Debian's cross compiler, else clang with lld, else the
    one in the package ziglang. MissingDependencyError where there is none of them.
    """
    named = _named(VARIABLE)
    if named:
        return named
    gcc = f"{machine}-linux-gnu-gcc"
    if shutil.which(gcc):
        return [gcc]
    if shutil.which("clang") and shutil.which("ld.lld"):
        return ["clang", f"--target={machine}-linux-gnu", "-fuse-ld=lld"]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu"]
    raise MissingDependencyError(
        f"saving code for {machine} needs a linker that this {targets.machine()} machine lacks: "
        "pip install 'tvmlayers[cross]', or on Debian apt-get install "
        f"gcc-{machine.replace('_', '-')}-linux-gnu; "
        f"or set {VARIABLE} to a C compiler that links for {machine}"
    )


def run(command: Sequence[str], options: Sequence[str], doing: str) -> None:
    """Run a compiler; MissingDependencyError with what it said where it fails."""
    try:
        done = subprocess.run(
            [*command, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",  # it may speak in another encoding than ours
        )
    except OSError as error:
        raise MissingDependencyError(
            f"{doing} with {shlex.join(command)} failed: {error}"
        ) from error
    if done.returncode:
        raise MissingDependencyError(
            f"{doing} with {shlex.join(command)} failed: exit status {done.returncode}: "
            f"{done.stdout.strip()}"
        )


def _named(variable: str) -> list[str]:
    """The command in an environment variable, split as a shell does; empty where there is none."""
    text = os.environ.get(variable, "").strip()
    if shutil.which(text):  # a path with spaces in it
        return [text]
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise MissingDependencyError(f"{variable} is no command: {error} in {text!r}") from error
    if words and shutil.which(words[0]) is None:
        raise MissingDependencyError(f"{variable} names {words[0]}, which is not found here")
    return words
