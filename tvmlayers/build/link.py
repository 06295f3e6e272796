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
_OPTIONS = ("-shared", "-fPIC", "-nostdlib")


def shared_library(module: Any, triple: str) -> bytes:
    """The compiled module as a shared library for `triple`."""
    needed = architecture(triple)
    is_foreign = needed != targets.machine()
    linker = cross_linker(needed) if is_foreign else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lib.so"

        def link(output: str, objects: Sequence[str], **_: Any) -> None:
            _run([*(linker or ()), *_OPTIONS, "-o", output, *objects])

        try:
            module.export_library(str(path), **({"fcompile": link} if linker else {}))
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise MissingDependencyError(
                f"linking for {needed} with {shlex.join(linker)} failed: {error}"
                if linker
                else "linking a library needs a C compiler such as gcc or clang on the machine "
                f"that compiles (not where the artefact runs): {error}"
            ) from error
        return path.read_bytes()


def cross_linker(machine: str) -> list[str]:
    """The command that links for Linux on `machine`, such as "aarch64", from whatever is here.

    The command in TVMLAYERS_CROSS_CC, else Debian's cross compiler, else clang with lld, else the
    one in the package ziglang. MissingDependencyError where there is none of them.
    """
    named = shlex.split(os.environ.get(VARIABLE, ""))
    if named:
        if shutil.which(named[0]) is None:
            raise MissingDependencyError(f"{VARIABLE} names {named[0]}, which is not found here")
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


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stdout.strip()}")
