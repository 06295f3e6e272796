"""LiteRT on the CPU: the interpreter with XNNPACK, which packs the weights as it is made."""

# mypy: disable-error-code="import-untyped, import-not-found"

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version as version_of
from typing import Any

from ai_edge_litert.interpreter import Interpreter

from bench import tflite_models
from bench.peers import Unsupported, only_float32
from bench.settings import Settings
from bench.timing import Side
from bench.work import Array, BagWork, DenseWork, EmbeddingWork, ModelWork

NAME = "litert"

_threads: list[int] = []  # of every interpreter, once the settings say so


def version() -> str:
    return version_of("ai-edge-litert")


def set_up(settings: Settings) -> None:
    _threads[:] = [settings.threads]


def dense(work: DenseWork) -> list[Side]:
    only_float32(work.x)
    files = [tflite_models.dense(work, kernel) for kernel in work.kernels]
    return _sides(files, [(work.x,)])


def embedding(work: EmbeddingWork) -> list[Side]:
    only_float32(work.table)
    return _sides([tflite_models.lookup(work)], [(ids,) for ids in work.indices])


def bag(work: BagWork) -> list[Side]:
    only_float32(work.table)
    if work.case.ragged:
        raise Unsupported("LiteRT has no operator for ragged bags")
    return _sides([tflite_models.lookup(work)], [(ids,) for ids in work.indices])


def model(work: ModelWork) -> list[Side]:
    only_float32(next(iter(work.weights.values())))
    return _sides([tflite_models.model(work)], work.inputs)


SIDES: dict[str, Callable[[Any], list[Side]]] = {
    "dense": dense,
    "embedding": embedding,
    "bag": bag,
    "model": model,
}


def _sides(files: Sequence[bytes], inputs: Sequence[tuple[Array, ...]]) -> list[Side]:
    """A copy in and out at each call, and the interpreter's own memory; files take turns, or
    inputs do."""
    copied: list[Callable[[], Array]] = []
    bound: list[Callable[[], Array]] = []
    for file in files:
        interpreters = _Interpreters(file, inputs[0])
        for arrays in inputs:
            copied.append(partial(_run, interpreters, arrays))
            # Inputs that never change are where the interpreter reads them already.
            bound.append(partial(_run_in_place, interpreters, arrays if len(inputs) > 1 else ()))
    return [Side(NAME, copied, variant="copied"), Side(NAME, bound, variant="bound")]


class _Interpreters(threading.local):
    """An interpreter for each thread that calls: one cannot run twice at a time."""

    def __init__(self, file: bytes, arrays: tuple[Array, ...]) -> None:
        self.one = Interpreter(model_content=file, num_threads=_threads[0])
        self.one.allocate_tensors()
        self.inputs = [each["index"] for each in self.one.get_input_details()]
        (result,) = self.one.get_output_details()
        self.result = result["index"]
        # Each gives the memory itself; nothing of it may be kept during a run.
        self.input_memory = [self.one.tensor(index) for index in self.inputs]
        self.result_memory = self.one.tensor(self.result)
        self.write(arrays)

    def write(self, arrays: tuple[Array, ...]) -> None:
        for memory, array in zip(self.input_memory, arrays, strict=False):
            memory()[...] = array


def _run(interpreters: _Interpreters, arrays: tuple[Array, ...]) -> Array:
    one = interpreters.one
    for index, array in zip(interpreters.inputs, arrays, strict=True):
        one.set_tensor(index, array)
    one.invoke()
    return one.get_tensor(interpreters.result)  # type: ignore[no-any-return]  # it has no types


def _run_in_place(interpreters: _Interpreters, arrays: tuple[Array, ...]) -> Array:
    interpreters.write(arrays)
    interpreters.one.invoke()
    return interpreters.result_memory()  # type: ignore[no-any-return]  # it has no types
