"""`verify`: a compiled model beside PyTorch, from nothing but the artefact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tvmlayers.artifact.weights import to_numpy
from tvmlayers.errors import ConfigError, MissingDependencyError, TvmLayersError
from tvmlayers.layers import Layer, Model, as_model
from tvmlayers.numeric import not_negative
from tvmlayers.runtime.call import ModelCall
from tvmlayers.runtime.signature import shape_text
from tvmlayers.testing.bounds import Array, Bounded, Difference, Rounding, compare
from tvmlayers.testing.inputs import draw, is_lone_bag
from tvmlayers.testing.originals import Original
from tvmlayers.testing.rebuild import model_of, weights_of
from tvmlayers.testing.reference import FloatReference, Reference
from tvmlayers.testing.report import Report, Row
from tvmlayers.testing.stored import has_fewer_bits, is_float_twin

BATCHES = (0, 1, 2, 3, 7, 17, 64, 333)
"""Batch sizes: nothing, one, odd ones, a whole number of register tiles, one that fits no tile."""


def verify(
    compiled: ModelCall,
    model: Model | Layer | None = None,
    *,
    samples: Sequence[int] = BATCHES,
    seed: int = 0,
    against: object = None,
    inputs: object = None,
) -> Report:
    """What came out when every entry point was called on random inputs, beside PyTorch in float64.

    model: the model that was compiled, needed only where a Python callable is one of its
        activations; or the one with float weights that it was quantised from: results are then held
        against its results as well, within the bound of `quantize` ("beside float weights").
    samples: the batch sizes to call with; seed: of the inputs.
    against: the model of another framework that it was imported from, whose own results are then
        wanted: an nn.Module, an ExportedProgram, an ONNX model, or a callable on NumPy arrays.
    inputs: an array, or a tuple of them in the model's order, to call with instead of random ones.

    The reference is made from the manifest and the packed weights alone. A result may differ by
    what rounding can amount to in its dtype, element by element (see `testing.bounds`). A wrong
    result does not raise: the report says so. MissingDependencyError without PyTorch.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            "tvmlayers.verify compares with PyTorch, which is not installed: "
            "pip install 'tvmlayers[torch]'"
        ) from error
    batches = _checked_samples(samples)
    if against is not None and samples is BATCHES:
        batches = BATCHES[1:]  # many models take no batch of nothing
    rebuilt = model_of(compiled, model)
    original = None if against is None else Original(against)
    # An original has float weights, whatever the compiled model has.
    beside_floats = original is not None and has_fewer_bits(rebuilt)
    weights = weights_of(compiled, rebuilt)
    reference = Reference(rebuilt, weights, beside_floats=beside_floats)
    references: list[Reference | FloatReference] = [reference]
    if model is not None and is_float_twin(floats := as_model(model), rebuilt):
        references.append(FloatReference(floats, rebuilt, reference.weights))
    entries = compiled.manifest["entries"]
    if original is not None or inputs is not None:
        # A bag's further ways of a call are not the original's.
        entries = [entry for entry in entries if not is_lone_bag(reference.graph, entry)]
    rng = np.random.default_rng(seed)
    drawn = (
        (entry, draw(reference.graph, entry, batch, rng), batch)
        for entry in entries
        for batch in batches
    )
    if inputs is not None:
        given = _named(entries[0], inputs)
        drawn = ((entries[0], given, len(next(iter(given.values())))) for _ in (0,))
    return Report(
        model=rebuilt.name,
        target=compiled.target,
        threads=compiled.threads,
        seed=seed,
        torch=torch.__version__,
        against="" if original is None else original.name,
        rows=tuple(
            _row(compiled, wanted, original, entry, taken, batch)
            for entry, taken, batch in drawn
            for wanted in references
        ),
    )


def _named(entry: Mapping[str, Any], inputs: object) -> dict[str, Array]:
    """The user's inputs as arrays by name."""
    values = inputs if isinstance(inputs, tuple) else (inputs,)
    slots = entry["inputs"]
    if len(values) != len(slots):
        raise ConfigError(f"verify expected {len(slots)} inputs, got {len(values)}")
    return {
        slot["name"]: to_numpy(value).astype(slot["dtype"], copy=False)
        for slot, value in zip(slots, values, strict=True)
    }


def _checked_samples(samples: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(samples, Sequence) or not samples:
        raise ConfigError(f"samples are batch sizes from 0 up, such as {BATCHES}, got {samples!r}")
    return tuple(not_negative("verify", "batch sizes", batch) for batch in samples)


def _row(
    compiled: ModelCall,
    reference: Reference | FloatReference,
    original: Original | None,
    entry: Mapping[str, Any],
    inputs: dict[str, Array],
    batch: int,
) -> Row:
    wanted = expected(reference, entry, inputs)
    try:
        given = compiled(**inputs)
        if original is not None:
            wanted = original.values(inputs, wanted)
    except TvmLayersError as error:
        found, output, problem = Difference(), "", f"{type(error).__name__}: {error}"
    else:
        results = given if isinstance(given, list) else [given]
        found, output, problem = _worst(results, wanted, entry["outputs"])
    return Row(
        entry=entry["symbol"] + reference.label,
        takes=", ".join(
            f"{i['name']}: {i['dtype']}{shape_text(i['shape'])}" for i in entry["inputs"]
        ),
        batch=batch,
        output=output,
        max_abs_error=found.absolute,
        max_rel_error=found.relative,
        tolerance=found.tolerance,
        share=found.share,
        problem=problem,
    )


def expected(
    reference: Reference | FloatReference, entry: Mapping[str, Any], inputs: Mapping[str, Array]
) -> list[Bounded]:
    """The outputs of the reference for the inputs of an entry."""
    if not is_lone_bag(reference.graph, entry):
        return reference(*inputs.values())
    indices, *_ = inputs.values()
    roles = {role: inputs[role] for role in list(inputs)[1:]}
    return reference(indices, **roles)


def _worst(
    results: Sequence[Array],
    wanted: Sequence[Bounded],
    outputs: Sequence[Mapping[str, Any]],
) -> tuple[Difference, str, str]:
    """(difference, output, problem) of the output that used most of its tolerance."""
    rows: list[tuple[Difference, str, str]] = []
    for result, want, output in zip(results, wanted, outputs, strict=True):
        shape, name = tuple(want.value.shape), output["name"]
        if result.shape != shape or result.dtype.name != output["dtype"]:
            got = f"{result.dtype}{shape_text(result.shape)}"
            return Difference(), name, f"expected {output['dtype']}{shape_text(shape)}, got {got}"
        rows.append((compare(result, want, Rounding.of(output["dtype"])), name, ""))
    return max(rows, key=lambda row: row[0].share)
