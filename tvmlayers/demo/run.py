"""The whole demonstration, in order, and what it found."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from tvmlayers.demo import digits, text
from tvmlayers.demo.compare import Built, Comparison, Stage, build, compare
from tvmlayers.demo.snippets import SNIPPETS
from tvmlayers.demo.trained import Trained
from tvmlayers.targets import physical_cores

# What a device needs beside the artefact, Python and NumPy: (package, library).
RUNTIME_LIBRARIES = (("tvm", "libtvm_runtime.so"), ("tvm_ffi", "libtvm_ffi.so"))


@dataclass(frozen=True)
class Settings:
    """How much is done. QUICK only shows that everything works: its numbers mean little."""

    digit_epochs: int
    text_epochs: int
    train_paragraphs: int
    held_out_paragraphs: int
    batches: tuple[int, ...]
    rounds: int

    @property
    def stages(self) -> int:
        """How often `run` calls `begin`."""
        return 1 + len(SNIPPETS) + 2 * (3 + len(self.batches))


FULL = Settings(
    digit_epochs=40,
    text_epochs=5,
    train_paragraphs=8000,
    held_out_paragraphs=2000,
    batches=(1, 32, 256),
    rounds=15,
)
QUICK = Settings(
    digit_epochs=6,
    text_epochs=6,
    train_paragraphs=800,
    held_out_paragraphs=100,
    batches=(1, 32),
    rounds=2,
)


@dataclass(frozen=True)
class Demonstration:
    """Everything that the report shows, and the conditions under which it was found."""

    target: str
    threads: int
    python: str
    torch: str
    compiler_import_seconds: float
    runtime_library_bytes: int
    snippets: tuple[Built, ...]
    comparisons: tuple[Comparison, ...]
    busy_elsewhere: float
    seconds: float

    @property
    def built(self) -> tuple[Built, ...]:
        """All compiled models."""
        return (*self.snippets, *(comparison.built for comparison in self.comparisons))

    @property
    def succeeded(self) -> bool:
        """Every model verified, and every held-out prediction the same as PyTorch's."""
        return all(built.verified for built in self.built) and not any(
            comparison.disagreements for comparison in self.comparisons
        )


def run(settings: Settings, begin: Stage, threads: int | None = None) -> Demonstration:
    """Compiles, trains, compares and times; begin is called with each stage before it starts.

    threads: for both sides; None takes the physical cores.
    """
    start = time.perf_counter()
    begin("load the compiler")
    # By itself, so that it is not taken for the time that compiling takes.
    importlib.import_module("tvmlayers.codegen")
    import_seconds = time.perf_counter() - start

    with tempfile.TemporaryDirectory(prefix="tvmlayers-demo-") as name:
        folder = Path(name)
        snippets = [_build_snippet(snippet, folder, begin, threads) for snippet in SNIPPETS]
        threads = threads or physical_cores()
        comparisons = []
        for train in (_train_digits, _train_text):
            trained = train(settings, begin)
            with _torch_threads(threads):
                comparisons.append(
                    compare(
                        trained,
                        threads=threads,
                        batches=settings.batches,
                        rounds=settings.rounds,
                        folder=folder,
                        begin=begin,
                    )
                )

    return Demonstration(
        target=snippets[0].target,
        threads=threads,
        python=platform.python_version(),
        torch=torch.__version__,
        compiler_import_seconds=import_seconds,
        runtime_library_bytes=runtime_library_bytes(),
        snippets=tuple(snippets),
        comparisons=tuple(comparisons),
        busy_elsewhere=max(comparison.busy_elsewhere for comparison in comparisons),
        seconds=time.perf_counter() - start,
    )


def runtime_library_bytes() -> int:
    """Size of the native libraries that running an artefact loads."""
    total = 0
    for package, library in RUNTIME_LIBRARIES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        total += (Path(spec.submodule_search_locations[0]) / "lib" / library).stat().st_size
    return total


def _build_snippet(name: str, folder: Path, begin: Stage, threads: int | None) -> Built:
    begin(f"{name} snippet: compile and verify")
    return build(name, SNIPPETS[name](), folder, threads)[1]


def _train_digits(settings: Settings, begin: Stage) -> Trained:
    begin("digits: compile a training step, train")
    return digits.train(settings.digit_epochs)


def _train_text(settings: Settings, begin: Stage) -> Trained:
    begin("text: read the documentation, compile a training step, train")
    return text.train(settings.train_paragraphs, settings.held_out_paragraphs, settings.text_epochs)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
