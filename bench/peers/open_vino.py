"""OpenVINO on the CPU: one stream, the latency hint, float32 or bfloat16 all the way."""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as operators

from bench import onnx_models
from bench.peers import only_float32
from bench.settings import Settings
from bench.timing import Side
from bench.work import Array, DenseWork, EmbeddingWork, ModelWork

NAME = "openvino"
CONFIG = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the machine has it
    "ENABLE_CPU_PINNING": False,  # as fast as with it, and other sides keep their cores
}

_core = ov.Core()


def version() -> str:
    return str(ov.__version__)


def set_up(settings: Settings) -> None:
    _core.set_property("CPU", {"INFERENCE_NUM_THREADS": settings.threads})


def dense(work: DenseWork) -> list[Side]:
    """A bfloat16 layer takes and gives float32 tensors and computes in bfloat16 between."""
    precision = {"bfloat16": "bf16"}.get(work.x.dtype.name, "f32")
    if precision == "bf16":
        single = (array.astype(np.float32) for array in (work.x, work.bias, *work.kernels))
        x, bias, *kernels = single
        work = replace(work, x=x, bias=bias, kernels=kernels)
    only_float32(work.x)
    models = [_read(onnx_models.dense(work, kernel)) for kernel in work.kernels]
    return _sides(models, [(work.x,)], {"INFERENCE_PRECISION_HINT": precision})


def embedding(work: EmbeddingWork) -> list[Side]:
    """A Gather; its bags are left out, they take several times what PyTorch's do."""
    only_float32(work.table)
    table = ov.op.Constant(work.table, shared_memory=True)
    ids = operators.parameter(work.indices[0].shape, work.indices[0].dtype)
    rows = operators.gather(table, ids, operators.constant(np.int64(0)))
    return _sides([ov.Model([rows], [ids], "embedding")], [(ids,) for ids in work.indices])


def model(work: ModelWork) -> list[Side]:
    only_float32(next(iter(work.weights.values())))
    return _sides([_read(onnx_models.model(work))], work.inputs)


SIDES: dict[str, Callable[[Any], list[Side]]] = {
    "dense": dense,
    "embedding": embedding,
    "model": model,
}


def _read(serialised: bytes) -> Any:
    return _core.read_model(serialised)


def _sides(
    models: Sequence[Any],
    inputs: Sequence[tuple[Array, ...]],
    more: Mapping[str, str] | None = None,
) -> list[Side]:
    """Inputs handed over at each call, and bound beforehand; models take turns, or inputs do."""
    fed: list[Callable[[], Array]] = []
    bound: list[Callable[[], Array]] = []
    result: Array | None = None
    for model in models:
        compiled = _core.compile_model(model, "CPU", {**CONFIG, **(more or {})})
        if result is None:
            result = np.empty(tuple(compiled.output(0).shape), np.float32)
        requests = _Requests(compiled)
        for arrays in inputs:
            fed.append(partial(_infer, requests, list(arrays)))
            bound.append(partial(_infer_bound, _bind(compiled, arrays, result), result))
    return [Side(NAME, fed, variant="infer"), Side(NAME, bound, variant="bound")]


def bound_side(model: Any, x: Array, config: Mapping[str, str], variant: str) -> Side:
    """Calls of a model on an input that is bound beforehand."""
    compiled = _core.compile_model(model, "CPU", {**CONFIG, **config})
    result = np.empty(tuple(compiled.output(0).shape), np.float32)
    call = partial(_infer_bound, _bind(compiled, (x,), result), result)
    return Side(NAME, [call], variant=variant)


class _Requests(threading.local):
    """A request for each thread that calls."""

    def __init__(self, compiled: Any) -> None:
        self.one = compiled.create_infer_request()


def _infer(requests: _Requests, arrays: list[Array]) -> Array:
    results = requests.one.infer(arrays, share_inputs=True, share_outputs=True)
    return results[0]  # type: ignore[no-any-return]  # openvino has no types


def _bind(compiled: Any, arrays: tuple[Array, ...], result: Array) -> Any:
    """A request of its own for these inputs, without copies on either way."""
    request = compiled.create_infer_request()
    for place, array in enumerate(arrays):
        request.set_input_tensor(place, ov.Tensor(array, shared_memory=True))
    request.set_output_tensor(0, ov.Tensor(result, shared_memory=True))
    return request


def _infer_bound(request: Any, result: Array) -> Array:
    request.infer(share_outputs=True)
    return result
