"""FBGEMM's table-batched bags of int8, int4 and float16 rows; a table is one thread's."""

# mypy: disable-error-code="import-untyped, import-not-found"

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
    BoundsCheckMode,
    EmbeddingLocation,
    PoolingMode,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
    IntNBitTableBatchedEmbeddingBagsCodegen,
)

from bench.peers import Unsupported
from bench.peers.fbgemm import NAME, POOLING
from bench.timing import Side
from bench.work import BagWork, EmbeddingWork

_TYPES = {"int8": SparseType.INT8, "int4": SparseType.INT4, "float16": SparseType.FP16}


def bag(work: BagWork, kind: str, threads: int) -> dict[str, list[Side]]:
    if work.case.mode not in POOLING:
        raise Unsupported(f"bags of sums and means, not of {work.case.mode}")
    return _sides(
        work, kind, POOLING[work.case.mode], list(zip(work.flat, work.offsets, strict=True))
    )


def embedding(work: EmbeddingWork, kind: str, threads: int) -> dict[str, list[Side]]:
    starts = np.arange(len(work.indices[0]), dtype=work.indices[0].dtype)
    return _sides(work, kind, PoolingMode.NONE, [(ids, starts) for ids in work.indices])


SIDES: dict[str, Callable[..., dict[str, list[Side]]]] = {"bag": bag, "embedding": embedding}


def _sides(
    work: BagWork | EmbeddingWork,
    kind: str,
    pooling: PoolingMode,
    sets: list[tuple[np.ndarray, np.ndarray]],
) -> dict[str, list[Side]]:
    if kind not in _TYPES:
        raise Unsupported("int8, int4 and float16")
    rows, dim = work.table.shape
    table = torch.from_numpy(work.table)
    module = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("table", rows, dim, _TYPES[kind], EmbeddingLocation.HOST)],
        device="cpu",
        pooling_mode=pooling,
        bounds_check_mode=BoundsCheckMode.NONE,
        output_dtype=SparseType.FP32,
        indices_dtype=torch.from_numpy(sets[0][0]).dtype,
    )
    module.fill_random_weights()
    operators = torch.ops.fbgemm
    if kind == "float16":
        packed, tail = table.half().view(torch.uint8), None
    else:
        bits = {"int8": 8, "int4": 4}[kind]
        fused = operators.FloatToFusedNBitRowwiseQuantizedSBHalf(table, bits) if bits < 8 else None
        if fused is None:
            whole = operators.FloatToFused8BitRowwiseQuantized(table)
            steps = whole[:, -8:].contiguous().view(torch.float32).half().view(torch.uint8)
            packed, tail = whole[:, :-8].contiguous(), steps
        else:
            packed, tail = fused[:, :-4].contiguous(), fused[:, -4:].contiguous()
    module.assign_embedding_weights([(packed, tail)])
    calls = []
    for ids, starts in sets:
        ends = np.append(starts, len(ids)).astype(ids.dtype)
        calls.append(partial(module, torch.from_numpy(ids), torch.from_numpy(ends)))
    return {"all": [Side(NAME, calls, torch.inference_mode, kind)]}
