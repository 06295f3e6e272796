"""The one helper that holds a compiled model against PyTorch in float64."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.layers import as_model
from tvmlayers.testing import Bounded, Reference, Rounding, compare

Array = NDArray[Any]

BATCHES = (*range(41), 100, 333)
"""Every register tile, alone and with a remainder, on one thread and on two."""


# Where the models run: on this CPU; "cuda": on the GPU here; "emulated": on the GPU that
# `tests/cuda_source` is.
DEVICE = os.environ.get("TVMLAYERS_TEST_DEVICE", "")
on_cpu = pytest.mark.skipif(bool(DEVICE), reason="about code for CPUs")
unless_emulated = pytest.mark.skipif(DEVICE == "emulated", reason="too much for the emulated GPU")


def needs(target: str) -> Any:
    """The target as a parameter of tests, skipped where this machine lacks its CPU features."""
    missing = targets.missing_features(targets.resolve(target).cpu_flags)
    return pytest.param(target, marks=pytest.mark.skipif(bool(missing), reason=f"no {missing}"))


def emulator() -> Any:
    """The module of that name."""
    folder = str(Path(__file__).parent.parent / "cuda_source")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module("emulator")


def compile_here(
    model: tl.Model | tl.Layer, *, target: str = "native", threads: int | None = None
) -> Any:
    """The model compiled for DEVICE; for `target` where that is this CPU."""
    if DEVICE == "emulated":
        return emulator().emulated(model, "cuda-sm80" if target == "native" else target)
    return tl.compile(model, target=DEVICE or target, threads=threads)


class Twin:
    """A model compiled, and the same model in PyTorch with its own unpacked weights."""

    def __init__(
        self,
        model: tl.Model | tl.Layer,
        *,
        example: object = None,
        target: str = "native",
        threads: int = 2,
        seed: int | None = 0,
    ) -> None:
        """seed: of fresh weights, biases included; None keeps those that the model has."""
        self.model = as_model(model, example)
        if seed is not None:
            fill(self.model, seed)
        self.compiled = self._compile(target, threads)
        self.reference = Reference(self.model)

    def agrees(self, *inputs: Any, **more: Any) -> None:
        """AssertionError unless a call gives what PyTorch gives, but for rounding.

        inputs: by position, as the model is called; more: a lone bag's offsets and weights.
        """
        given = self.compiled(*inputs, **more)
        self.compare(given, self.reference(*map(np.asarray, inputs), **more))

    def agrees_for_every_batch(self, *inputs: Array, batches: Iterable[int] = BATCHES) -> None:
        """As `agrees`, for the first rows of the inputs, as many as each of the batches says."""
        wanted = self.reference(*inputs)
        for batch in batches:
            first = [want.first(batch) for want in wanted]
            self.compare(self.compiled(*(array[:batch] for array in inputs)), first)

    def _compile(self, target: str, threads: int) -> Any:
        return compile_here(self.model, target=target, threads=threads)

    def compare(self, given: Any, wanted: Sequence[Bounded]) -> None:
        """AssertionError unless results are the reference's: shape, dtype and numbers."""
        results = given if isinstance(given, list) else [given]
        assert len(results) == len(wanted)
        for result, want, tensor in zip(results, wanted, self.model.outputs, strict=True):
            assert_close(np.asarray(result), want, tensor.dtype, tensor.name)


def assert_close(result: Array, want: Bounded, dtype: str, what: str) -> None:
    """AssertionError unless a result has the shape, the dtype and the numbers of the reference."""
    assert result.shape == tuple(want.value.shape), what
    assert result.dtype == dtype, what
    difference = compare(result, want, Rounding.of(dtype))
    assert difference.is_rounding, f"{what} {result.shape}: {difference}"


def fill(model: tl.Model, seed: int) -> None:
    """Give a model weights that no default initialiser gives: biases that are not zero."""
    rng = np.random.default_rng(seed)
    drawn = [
        rng.normal(scale=_scale(weight), size=weight.shape) for weight in model.weights.values()
    ]
    model.set_weights(
        [
            np.abs(new) if name.endswith("variance") else new
            for name, new in zip(model.weights, drawn, strict=True)
        ]
    )


def _scale(weight: Array) -> float:
    is_kernel = weight.ndim == 2
    return float(weight.shape[0]) ** -0.5 if is_kernel and weight.shape[0] > 8 else 1.0


def normal(*shape: int, dtype: str = "float32", seed: int = 1) -> Array:
    """Standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def indices(rows: int, *shape: int, dtype: str = "int64", seed: int = 1) -> Array:
    """Row numbers below `rows`; the first and the last row are among them."""
    drawn = np.random.default_rng(seed).integers(0, rows, shape)
    if prod(shape) > 1:
        drawn.flat[0], drawn.flat[-1] = 0, rows - 1
    return drawn.astype(dtype)
