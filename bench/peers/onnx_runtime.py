"""ONNX Runtime on the CPU: weights as initializers, every graph optimisation, one thread pool."""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort

from bench import onnx_models
from bench.onnx_models import OUTPUT
from bench.peers import Unsupported, only_float32
from bench.settings import Settings
from bench.timing import Side
from bench.work import Array, BagWork, DenseWork, EmbeddingWork, ModelWork

NAME = "onnxruntime"
TABLE = "table"

_pool: list[int] = []  # the threads of the process's pool, once it is made


def version() -> str:
    return str(ort.__version__)


def set_up(settings: Settings) -> None:
    """RuntimeError if this process has had another number before: the pool cannot be replaced."""
    threads = settings.threads
    # A pool for each session would have those of idle sessions spin beside the one that works.
    if not _pool:
        ort.set_default_logger_severity(3)  # it warns that sessions have no pool of their own
        ort.set_global_thread_pool_sizes(threads, 1)
        _pool.append(threads)
    if _pool != [threads]:
        raise RuntimeError(f"onnxruntime runs on {_pool[0]} threads in this process, not {threads}")


def dense(work: DenseWork) -> list[Side]:
    only_float32(work.x)
    sessions = [_session(onnx_models.dense(work, kernel)) for kernel in work.kernels]
    return _sides(sessions, [(work.x,)])


def embedding(work: EmbeddingWork) -> list[Side]:
    only_float32(work.table)
    return _sides([_with_table(work)], [(ids,) for ids in work.indices])


def bag(work: BagWork) -> list[Side]:
    only_float32(work.table)
    if work.case.ragged:
        raise Unsupported("ONNX has no operator for ragged bags")
    return _sides([_with_table(work)], [(ids,) for ids in work.indices])


def model(work: ModelWork) -> list[Side]:
    only_float32(next(iter(work.weights.values())))
    return _sides([_session(onnx_models.model(work))], work.inputs)


SIDES: dict[str, Callable[[Any], list[Side]]] = {
    "dense": dense,
    "embedding": embedding,
    "bag": bag,
    "model": model,
}


def _with_table(work: EmbeddingWork | BagWork) -> Any:
    """A session that reads the work's own table: none is copied, none is too large."""
    options = _options()
    value = ort.OrtValue.ortvalue_from_numpy(work.table)
    options.add_external_initializers([TABLE], [value])
    return _session(onnx_models.lookup(work, TABLE), options)


def _options() -> Any:
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return options


def _session(model: bytes, options: Any = None) -> Any:
    return ort.InferenceSession(model, options or _options(), providers=["CPUExecutionProvider"])


def _sides(sessions: Sequence[Any], inputs: Sequence[tuple[Array, ...]]) -> list[Side]:
    """`run`, and inputs and result bound beforehand; sessions take turns, or inputs do."""
    names = [spec.name for spec in sessions[0].get_inputs()]
    result = np.empty(sessions[0].get_outputs()[0].shape, np.float32)
    run: list[Callable[[], Array]] = []
    bound: list[Callable[[], Array]] = []
    for session in sessions:
        for arrays in inputs:
            feeds = dict(zip(names, arrays, strict=True))
            run.append(partial(_run, session, feeds))
            bound.append(partial(_run_bound, session, _bind(session, feeds, result), result))
    return [Side(NAME, run, variant="run"), Side(NAME, bound, variant="bound")]


def _run(session: Any, feeds: dict[str, Array]) -> Array:
    (result,) = session.run([OUTPUT], feeds)
    return result  # type: ignore[no-any-return]  # onnxruntime has no types


def _bind(session: Any, feeds: dict[str, Array], result: Array) -> Any:
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    binding.bind_ortvalue_output(OUTPUT, ort.OrtValue.ortvalue_from_numpy(result))
    return binding


def _run_bound(session: Any, binding: Any, result: Array) -> Array:
    session.run_with_iobinding(binding)
    return result
