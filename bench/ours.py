"""Our side of a case: the layers, compiled for the target, given the work's weights.

They are called with NumPy arrays, and with their inputs and result bound beforehand as ONNX Runtime
and OpenVINO have them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import tvmlayers as tl
from bench.models import DLRM_BAGS, DLRM_BOTTOM, DLRM_NUMBERS, DLRM_TOP, TOWERS
from bench.settings import Settings
from bench.timing import Side
from bench.work import Array, BagWork, DenseWork, EmbeddingWork, ModelWork, Work

NAME = "tvmlayers"

# Looked up here so that the compiler is imported before the first case, not within it.
_compiler = tl.compile


@dataclass(frozen=True)
class Prepared:
    """Our ways of a case: `bound`, which is compared with the peers, and `call`, from arrays to
    arrays; compiled: the model that they go to."""

    bound: Side
    call: Side
    compiled: Any

    def weights(self) -> list[Array]:
        """The packed weights, where the calls read them."""
        return list(self.compiled.packed_weights().values())


def prepare(work: Work, settings: Settings) -> Prepared:
    """Our side of the work."""
    if isinstance(work, ModelWork):
        compiled = _compile(_with_weights(MODELS[work.case.name], work, settings), settings)
        return _prepared([compiled], work.inputs)
    if isinstance(work, DenseWork):
        return of_layer(dense_layer(work, settings), work, settings)
    return of_layer(table_layer(work, settings), work, settings)


def _on_indices(compiled: Any, work: Any) -> Prepared:
    if isinstance(work, BagWork) and work.case.ragged:
        return _prepared([compiled], list(zip(work.indices, work.offsets, strict=True)))
    return _prepared([compiled], [(ids,) for ids in work.indices])


def _prepared(models: Sequence[Any], inputs: Sequence[tuple[Array, ...]]) -> Prepared:
    """Models take turns, or inputs do; the bound calls share one buffer for their result."""
    turns = list(product(models, inputs))
    first, arrays = turns[0]
    result = first(*arrays)
    return Prepared(
        Side(NAME, [model.bind(*arrays, out=result) for model, arrays in turns], variant="bound"),
        Side(NAME, [partial(model, *arrays) for model, arrays in turns], variant="call"),
        first,
    )


def schedule_sources(compiled: Any) -> list[str]:
    """Where the schedules of the compiled model's kernels came from, each source once."""
    return sorted({str(row["schedule"]) for row in compiled.report() if row.get("schedule")})


def _compile(model: Any, settings: Settings) -> Any:
    tuned = {} if settings.records else {"records": False}
    return _compiler(model, target=settings.target, threads=settings.threads, **tuned)


def dense_layer(work: DenseWork, settings: Settings) -> Any:
    """The layer of a case, with its weights."""
    case = work.case
    layer = tl.Dense(case.n, activation=case.activation, input_dim=case.k, dtype=settings.dtype)
    layer.set_weights([work.kernels[0], work.bias])
    return layer


def of_layer(layer: Any, work: Work, settings: Settings) -> Prepared:
    """Our side of the work of one layer, which may be in fewer bits."""
    compiled = _compile(tl.Sequential([layer]), settings)
    if not isinstance(work, DenseWork):
        return _on_indices(compiled, work)
    copies = _copies(compiled, len(work.kernels) - 1, settings.threads)
    return _prepared([compiled, *copies], [(work.x,)])


def _copies(compiled: Any, count: int, threads: int) -> list[Any]:
    """The compiled layer again, with packed weights in memory of their own.

    Each is loaded anew and brings its own code, which is then cold too: peers have it easier.
    """
    if count == 0:
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.tvml"
        compiled.save(path)
        return [tl.load(path, threads=threads) for _ in range(count)]


def table_layer(work: EmbeddingWork | BagWork, settings: Settings) -> Any:
    """The layer of a case, with its table."""
    case = work.case
    if isinstance(work, BagWork):
        layer: Any = tl.EmbeddingBag(case.rows, case.dim, mode=work.case.mode, dtype=settings.dtype)
    else:
        layer = tl.Embedding(case.rows, case.dim, input_shape=(), dtype=settings.dtype)
    layer.set_weights([work.table])
    return layer


class _Layers:
    """Makes named layers, and remembers them so that their weights can be set."""

    def __init__(self, work: ModelWork, settings: Settings) -> None:
        self._work = work
        self.dtype = settings.dtype
        self.index_dtype = settings.index_dtype
        self.made: list[Any] = []

    def dense(self, name: str, activation: str | None = None) -> Any:
        units = self._work.weights[f"{name}.kernel"].shape[1]
        return self._keep(tl.Dense(units, activation=activation, name=name, dtype=self.dtype))

    def embedding(self, name: str, length: int | None = None) -> Any:
        shape = self._work.weights[f"{name}.embeddings"].shape
        return self._keep(tl.Embedding(*shape, input_length=length, name=name, dtype=self.dtype))

    def bag(self, name: str, mode: str) -> Any:
        shape = self._work.weights[f"{name}.embeddings"].shape
        return self._keep(tl.EmbeddingBag(*shape, mode=mode, name=name, dtype=self.dtype))

    def _keep(self, layer: Any) -> Any:
        self.made.append(layer)
        return layer


def _with_weights(build: Callable[[_Layers], Any], work: ModelWork, settings: Settings) -> Any:
    layers = _Layers(work, settings)
    model = build(layers)
    for layer in layers.made:
        prefix = f"{layer.name}."
        # The dictionary keeps Keras's order: kernel, then bias.
        layer.set_weights([w for name, w in work.weights.items() if name.startswith(prefix)])
    return model


def _seed(layers: _Layers) -> Any:
    ids = tl.Input((10,), dtype=layers.index_dtype, name="ids")
    hidden = layers.dense("hidden", "relu")(tl.Flatten()(layers.embedding("embedding", 10)(ids)))
    return tl.Model(ids, layers.dense("output", "softmax")(hidden))


def _text(layers: _Layers) -> Any:
    ids = tl.Input((None,), dtype=layers.index_dtype, name="ids")
    return tl.Model(ids, layers.dense("output", "softmax")(layers.bag("bag", "mean")(ids)))


def _two_tower(layers: _Layers) -> Any:
    inputs = [tl.Input((), dtype=layers.index_dtype, name=f"{tower}_id") for tower in TOWERS]
    towers = []
    for tower, ids in zip(TOWERS, inputs, strict=True):
        hidden = layers.dense(f"{tower}_hidden", "relu")(layers.embedding(tower)(ids))
        towers.append(layers.dense(f"{tower}_output")(hidden))
    return tl.Model(inputs, tl.Activation("sigmoid")(tl.Dot(axes=1)(towers)))


def _dlrm(layers: _Layers) -> Any:
    numbers = tl.Input((DLRM_NUMBERS,), dtype=layers.dtype, name="numbers")
    indices = [
        tl.Input((None,), dtype=layers.index_dtype, name=f"indices{bag}")
        for bag in range(DLRM_BAGS)
    ]
    dense = numbers
    for place in range(len(DLRM_BOTTOM)):
        dense = layers.dense(f"bottom{place}", "relu")(dense)
    bags = [layers.bag(f"bag{bag}", "sum")(ids) for bag, ids in enumerate(indices)]
    top = tl.Concatenate()([dense, tl.DotInteraction()([dense, *bags])])
    last = len(DLRM_TOP) - 1
    for place in range(len(DLRM_TOP)):
        top = layers.dense(f"top{place}", "sigmoid" if place == last else "relu")(top)
    return tl.Model([numbers, *indices], top)


MODELS: dict[str, Callable[[_Layers], Any]] = {
    "seed": _seed,
    "text": _text,
    "two tower": _two_tower,
    "dlrm": _dlrm,
}
