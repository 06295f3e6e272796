"""The workloads of a model: what its layers look up in the records when it is compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from tvmlayers import layers
from tvmlayers.artifact import file as artifact
from tvmlayers.codegen.fuse import PooledLookup, Step, fused_steps
from tvmlayers.errors import ConfigError, TuneError
from tvmlayers.layers import Layer, Model, as_model, load_model
from tvmlayers.layers.activations import OVER_LAST_AXIS
from tvmlayers.tune.cases import Case, parse
from tvmlayers.tune.data import Data
from tvmlayers.workload import KINDS, Workload

BATCHES = (1, 32, 256)
_ZIP = b"PK\x03\x04"


def cases_of(given: object, batches: Sequence[int], data: Data) -> list[Case]:
    """The cases that `given` means, each once.

    given: a layer or model, the path of a saved one or of an artefact, a Workload, a Case, a
    string such as "dense 128x768x3072:gelu", or a list of these.
    """
    for batch in batches:
        if type(batch) is not int or batch < 1:
            raise TuneError(f"a batch size is a whole number from 1 on, got {batch!r}")
    if not batches:
        raise TuneError("tuning needs at least one batch size, got none")
    found = list(dict.fromkeys(_cases(given, batches, data)))
    if not found:
        raise TuneError(
            "there is nothing to tune: no Dense, Embedding, EmbeddingBag or softmax in what was "
            "given"
        )
    return found


def read_model(path: Path) -> Model:
    """The model in a saved description or in an artefact."""
    with path.open("rb") as file:
        is_artefact = file.read(len(_ZIP)) == _ZIP
    if not is_artefact:
        return load_model(path)
    config = artifact.read_manifest(path)["model"]
    return Model.from_config(config)


def _cases(given: object, batches: Sequence[int], data: Data) -> Iterator[Case]:
    if isinstance(given, Case):
        yield given
    elif isinstance(given, Workload):
        yield Case(given, data)
    elif isinstance(given, Mapping):
        yield Case(Workload.from_dict(given), data)
    elif isinstance(given, Path):
        yield from _of_model(read_model(given), batches, data)
    elif isinstance(given, str):
        kind, space, text = given.strip().partition(" ")
        if space and kind in KINDS:
            yield parse(kind, text, data)
        else:
            yield from _of_model(read_model(Path(given)), batches, data)
    elif isinstance(given, (list, tuple)):
        for each in given:
            yield from _cases(each, batches, data)
    elif isinstance(given, (Layer, Model)):
        yield from _of_model(as_model(given), batches, data)
    else:
        raise ConfigError(
            "what is tuned is a layer, a model, the path of one, a Workload, a string such as "
            f"'dense 128x768x3072:gelu', or a list of these; got {type(given).__name__}"
        )


def _of_model(model: Model, batches: Sequence[int], data: Data) -> Iterator[Case]:
    for step in fused_steps(model.graph):
        for batch in batches:
            yield from _of_step(step, batch, data)


def _of_step(step: Step, batch: int, data: Data) -> Iterator[Case]:
    layer, shape = step.layer, step.inputs[0].shape
    if isinstance(layer, layers.Dense):
        rows = _items(shape[:-1], batch, data)
        k, n = layer.weight_specs()["kernel"].shape
        name = layer.activation if isinstance(layer.activation, str) else "linear"
        traits = {"dtype": layer.dtype, "activation": name, "stored": layer.stored}
        yield _case(data, "dense", m=rows, k=k, n=n, **traits)
        if name in OVER_LAST_AXIS:
            yield _case(data, "softmax", m=rows, n=n, dtype=layer.dtype)
    elif isinstance(layer, layers.Activation) and layer.activation in OVER_LAST_AXIS:
        rows = _items(shape[:-1], batch, data)
        yield _case(data, "softmax", m=rows, n=shape[-1], dtype=step.output.dtype)
    elif isinstance(layer, (layers.EmbeddingBag, PooledLookup)):
        yield _bag(step, batch, data)
    elif isinstance(layer, layers.Embedding):
        indices = _items(shape, batch, data)
        yield _case(
            data,
            "embedding",
            indices=indices,
            rows=layer.input_dim,
            width=layer.output_dim,
            dtype=layer.dtype,
            stored=layer.stored,
        )


def _bag(step: Step, batch: int, data: Data) -> Case:
    layer, shape = step.layer, step.inputs[0].shape
    table = layer.embedding if isinstance(layer, PooledLookup) else layer
    assert isinstance(table, (layers.Embedding, layers.EmbeddingBag))
    length = shape[1] if len(shape) == 2 else None
    if length is not None:
        data = replace(data, lengths=(length, length))
    return _case(
        data,
        "bag",
        indices=batch * data.mean_length,
        rows=table.input_dim,
        width=table.output_dim,
        dtype=table.dtype,
        stored=table.stored,
        mode=layer.mode if isinstance(layer, layers.EmbeddingBag) else "mean",
    )


def _items(shape: Sequence[int | None], batch: int, data: Data) -> int:
    """How many a batch holds; an axis of any length is taken as long as a bag."""
    return batch * prod(data.mean_length if size is None else size for size in shape[1:])


def _case(data: Data, kind: str, **values: Any) -> Case:
    return Case(Workload.make(kind, **values), data)
