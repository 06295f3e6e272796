"""FBGEMM's table-batched embedding bags, for inference on the CPU with a float32 table.

It neither checks the indices' bounds nor spreads one table's work over threads: in its world every
thread serves requests of its own.
"""

# mypy: disable-error-code="import-untyped, import-not-found"

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version as version_of
from typing import Any

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

from bench.peers import Unsupported, only_float32
from bench.settings import Settings
from bench.timing import Side
from bench.work import Array, BagWork, EmbeddingWork

NAME = "fbgemm"
POOLING = {"sum": PoolingMode.SUM, "mean": PoolingMode.MEAN}


def version() -> str:
    return version_of("fbgemm-gpu-cpu")


def set_up(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)


def embedding(work: EmbeddingWork) -> list[Side]:
    # One bag for each index, which is not pooled with anything.
    starts = np.arange(len(work.indices[0]), dtype=work.indices[0].dtype)
    return _sides(work, PoolingMode.NONE, [(ids, starts) for ids in work.indices])


def bag(work: BagWork) -> list[Side]:
    if work.case.mode not in POOLING:
        raise Unsupported(f"bags of sums and means, not of {work.case.mode}")
    return _sides(work, POOLING[work.case.mode], list(zip(work.flat, work.offsets, strict=True)))


SIDES: dict[str, Callable[[Any], list[Side]]] = {"embedding": embedding, "bag": bag}


def _sides(
    work: EmbeddingWork | BagWork, pooling: PoolingMode, sets: list[tuple[Array, Array]]
) -> list[Side]:
    """The module, and the operator beneath it, which saves the module's Python."""
    only_float32(work.table)
    rows, dim = work.table.shape
    index_type = torch.from_numpy(sets[0][0]).dtype
    module = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("table", rows, dim, SparseType.FP32, EmbeddingLocation.HOST)],
        device="cpu",
        pooling_mode=pooling,
        bounds_check_mode=BoundsCheckMode.NONE,
        output_dtype=SparseType.FP32,
        weight_lists=[(torch.from_numpy(work.table).view(torch.uint8), None)],
        indices_dtype=index_type,
    )
    # Offsets go on to the end of the last bag.
    tensors = [
        (torch.from_numpy(ids), torch.from_numpy(np.append(starts, len(ids)).astype(ids.dtype)))
        for ids, starts in sets
    ]
    operator = partial(
        torch.ops.fbgemm.int_nbit_split_embedding_codegen_lookup_function.default,
        module.weights_host,
        module.weights_uvm,
        module.weights_placements,
        module.weights_offsets,
        module.weights_tys,
        module.D_offsets,
        module.total_D,
        module.max_int2_D,
        module.max_int4_D,
        module.max_int8_D,
        module.max_float16_D,
        module.max_float32_D,
    )
    none = (int(pooling), None, SparseType.FP32.as_int())
    return [
        _side("module", [partial(module, *pair) for pair in tensors]),
        _side("operator", [partial(operator, *pair, *none) for pair in tensors]),
    ]


def _side(variant: str, calls: list[Callable[[], Any]]) -> Side:
    return Side(NAME, calls, torch.inference_mode, variant)
