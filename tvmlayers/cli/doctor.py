"""`tvmlayers doctor`: what this machine can do, what is missing and how to get it."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import tvmlayers as tl
from tvmlayers import records, tables, targets
from tvmlayers.cli.console import OUT, print_json
from tvmlayers.errors import TvmLayersError

DESCRIPTION = """What this machine can do with tvmlayers: run artefacts, compile for itself and for
other hardware, import, verify and tune. What is missing is named with the way to get it. The exit
status is 1 if the machine can neither run nor compile anything, else 0."""

# What an extra of the package brings, by the name of a distribution, and what that is for.
_EXTRAS = {
    "torch": ("torch", "verify a model, import from PyTorch"),
    "keras": ("h5py", "read .keras files"),
    "onnx": ("onnx", "import .onnx files"),
    "sklearn": ("scikit-learn", "import from scikit-learn"),
    "plot": ("matplotlib", "draw plots"),
    "tune": ("xgboost-cpu", "tune schedules"),
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ok: whether it is there; advice: how to get it."""

    what: str
    ok: bool
    found: str
    advice: str = ""


def add_commands(commands: Any) -> None:
    """Adds `doctor` to the sub-parsers."""
    command = commands.add_parser(
        "doctor", help="say what this machine can do and what is missing", description=DESCRIPTION
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run_doctor)


def run_doctor(args: argparse.Namespace) -> int:
    """Prints what was found."""
    findings = list(examine())
    needed = [each for each in findings if each.what in ("run artefacts", "compile")]
    status = 0 if any(each.ok for each in needed) else 1
    if args.json:
        print_json([asdict(each) for each in findings])
    else:
        OUT.print(tables.findings_table(map(asdict, findings)))
    return status


def examine() -> Iterator[Finding]:
    """Everything that is looked at, in the order in which it is printed."""
    yield Finding(
        "versions",
        True,
        f"tvmlayers {tl.__version__}, TVM {_version('apache-tvm') or 'missing'}, "
        f"NumPy {_version('numpy')}, Python {platform.python_version()}",
    )
    yield _tried("run artefacts", _runtime)
    yield _tried("CPU", _cpu)
    yield _tried("CPUs to use", _threads)
    yield _tried("compile", _compiler)
    yield _tried("compile for other CPUs", _cross)
    yield _tried("compile for NVIDIA GPUs", _cuda_compiler)
    yield _tried("run on an NVIDIA GPU", lambda: targets.resolve("cuda").name)
    for extra, (package, purpose) in _EXTRAS.items():
        version = _version(package)
        found = f"{package} {version}" if version else f"{package} is not installed"
        yield Finding(
            purpose, version is not None, found, "" if version else f"pip install '.[{extra}]'"
        )
    yield _tried("your tuned records", lambda: str(records.user_folder()))


def _tried(what: str, look: Callable[[], str]) -> Finding:
    """What `look` finds; an error of ours says what is missing and, behind it, what to do."""
    try:
        return Finding(what, True, look())
    except TvmLayersError as error:
        said, _, advice = str(error).partition("; ")
        return Finding(what, False, said, advice)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _runtime() -> str:
    from tvmlayers.runtime import ffi

    ffi.load_runtime()
    return "TVM's runtime library loads"


def _cpu() -> str:
    native = targets.native()
    lacking = [
        f"{name} lacks {' '.join(lacks)}"
        for name, row in targets.TARGETS.items()
        if row.architecture == targets.machine()
        for lacks in [targets.missing_features(row.cpu_flags)]
        if lacks
    ]
    return f"{native.name}" + (f" ({'; '.join(lacking)})" if lacking else "")


def _threads() -> str:
    usable, cores = targets.usable_cpus(), targets.physical_cores()
    return f"{usable} of {os.cpu_count()}, on {cores} physical cores"


def _compiler() -> str:
    from tvmlayers import codegen  # noqa: F401 - brings TVM's compiler, which may be missing
    from tvmlayers.codegen.link import compiler

    return f"TVM's compiler, linking with {' '.join(compiler())}"


def _cross() -> str:
    from tvmlayers.codegen.link import cross_linker

    foreign = "aarch64" if targets.machine() == "x86_64" else "x86_64"
    return f"{foreign}, linking with {' '.join(cross_linker(foreign))}"


def _cuda_compiler() -> str:
    from tvmlayers.codegen.cuda.toolchain import available

    found = available()
    if found is None:
        raise TvmLayersError("there is neither nvcc nor NVRTC; pip install '.[cuda]'")
    return found
