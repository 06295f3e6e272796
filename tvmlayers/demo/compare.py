"""Compiles a model, saves and loads it, and holds it against PyTorch."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import tvmlayers as tl
from tvmlayers.artifact.file import LIBRARY, WEIGHTS
from tvmlayers.demo.timing import OtherWork, duel
from tvmlayers.demo.trained import Trained
from tvmlayers.runtime.call import ModelCall

Stage = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """A compiled model: what it cost, how large its artefact is, whether it was verified."""

    name: str
    target: str
    compile_seconds: float
    artefact_bytes: int
    library_bytes: int
    weights_bytes: int
    verified: bool
    largest_error: float


@dataclass(frozen=True)
class Timing:
    """Median microseconds per call at one batch size; speedup is the median of torch / ours."""

    batch: int
    ours_us: float
    torch_us: float
    speedup: float


@dataclass(frozen=True)
class Comparison:
    """What a trained model gave on the held-out data, beside PyTorch.

    busy_elsewhere: cores that other programs kept busy during the timings.
    """

    built: Built
    task: str
    train_seconds: float
    held_out: int
    accuracy: float
    torch_accuracy: float
    disagreements: int
    largest_difference: float
    timings: tuple[Timing, ...]
    busy_elsewhere: float


def build(name: str, model: tl.Model, folder: Path, threads: int | None) -> tuple[ModelCall, Built]:
    """The model compiled, saved in folder and loaded from there; verified in float64."""
    start = time.perf_counter()
    compiled = tl.compile(model, threads=threads)
    compile_seconds = time.perf_counter() - start
    path = folder / f"{name}.tvml"
    compiled.save(path)
    loaded = tl.load(path, threads=threads)
    verification = tl.verify(loaded)
    with zipfile.ZipFile(path) as artefact:
        library, weights = (artefact.getinfo(part).file_size for part in (LIBRARY, WEIGHTS))
    built = Built(
        name=name,
        target=loaded.target,
        compile_seconds=compile_seconds,
        artefact_bytes=path.stat().st_size,
        library_bytes=library,
        weights_bytes=weights,
        verified=verification.ok,
        largest_error=verification.largest_error,
    )
    return loaded, built


def compare(
    trained: Trained,
    *,
    threads: int,
    batches: Sequence[int],
    rounds: int,
    folder: Path,
    begin: Stage,
) -> Comparison:
    """All predictions compared, then the times; everything runs from the saved artefact.

    threads: of both sides; folder: where the artefact goes; begin: told of each stage.
    """
    begin(f"{trained.name}: compile and verify")
    compiled, built = build(trained.name, trained.model, folder, threads)

    begin(f"{trained.name}: compare {len(trained.labels)} predictions")
    ours = compiled(trained.inputs)
    with torch.inference_mode():
        theirs = trained.network(torch.from_numpy(trained.inputs)).numpy()
    our_classes, their_classes = ours.argmax(axis=1), theirs.argmax(axis=1)

    timings = []
    with OtherWork() as other:
        for batch in batches:
            begin(f"{trained.name}: time batch {batch}")
            timings.append(_time(compiled, trained, batch, rounds))
    return Comparison(
        built=built,
        task=trained.task,
        train_seconds=trained.train_seconds,
        held_out=len(trained.labels),
        accuracy=float(np.mean(our_classes == trained.labels)),
        torch_accuracy=float(np.mean(their_classes == trained.labels)),
        disagreements=int(np.count_nonzero(our_classes != their_classes)),
        largest_difference=float(np.abs(ours - theirs).max()),
        timings=tuple(timings),
        busy_elsewhere=other.cores,
    )


def _time(compiled: ModelCall, trained: Trained, batch: int, rounds: int) -> Timing:
    """NumPy to NumPy on our side, tensor to tensor on PyTorch's: each what it likes best."""
    array = np.ascontiguousarray(np.resize(trained.inputs, (batch, *trained.inputs.shape[1:])))
    tensor = torch.from_numpy(array)
    with torch.inference_mode():
        result = duel(lambda: compiled(array), lambda: trained.network(tensor), rounds)
    return Timing(batch, result.ours_us, result.theirs_us, result.speedup)
