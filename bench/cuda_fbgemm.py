"""FBGEMM on a GPU: table-batched embedding bags with a float32 table, for training and inference.

The table lies in the device's memory, and indices are not checked. Both modules run on a CPU as
well, where the tests look at what they compute.
"""

# mypy: disable-error-code="import-untyped, import-not-found"

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.peers import Unsupported

NAME = "fbgemm"
LOOKUP = "none"  # the pooling of a lookup
POOLING = {LOOKUP: "NONE", "sum": "SUM", "mean": "MEAN"}
# Only builds for CUDA have a kernel of it there.
OPERATOR = "fbgemm::int_nbit_split_embedding_codegen_lookup_function"


def missing() -> str | None:
    """Why there is no FBGEMM for CUDA here; None where there is."""
    import torch

    try:
        import fbgemm_gpu
    except (ImportError, OSError) as error:
        return f"fbgemm_gpu does not load ({error}); pip install fbgemm-gpu"
    if torch._C._dispatch_has_kernel_for_dispatch_key(OPERATOR, "CUDA"):
        return None
    return (
        f"fbgemm_gpu is here as a build for {getattr(fbgemm_gpu, '__target__', 'the CPU')} and has "
        "no CUDA kernels; pip install fbgemm-gpu, of the release that goes with this torch"
    )


def ways(
    table: Any, pooling: str, sets: Sequence[tuple[Any, Any]], device: str = "cuda"
) -> dict[str, list[Callable[[], Any]]]:
    """Calls that pool rows of a table by each module, by name, one for each of the sets.

    table: (rows, dim) float32; sets: pairs of ids: (total,) and offsets: (bags + 1,), all tensors
    on the device; pooling: "sum", "mean", or "none" for a lookup. Unsupported for what FBGEMM does
    not do.
    """
    rows, dim = table.shape
    if pooling not in POOLING:
        raise Unsupported(f"bags of sums and means, not of {pooling}")
    if dim % 4:
        raise Unsupported(f"rows of a multiple of 4 columns, not of {dim}")
    import torch

    index_dtype = sets[0][0].dtype
    modules = {
        "fbgemm training": _training(table, rows, dim, pooling, device),
        "fbgemm inference": _inference(table, rows, dim, pooling, device, index_dtype),
    }

    def call(module: Any, ids: Any, offsets: Any) -> Any:
        with torch.no_grad():
            return module(ids, offsets)

    return {
        name: [partial(call, module, *pair) for pair in sets] for name, module in modules.items()
    }


def _training(table: Any, rows: int, dim: int, pooling: str, device: str) -> Any:
    import torch
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
        BoundsCheckMode,
        EmbeddingLocation,
        PoolingMode,
    )
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    on_gpu = device == "cuda"
    module = SplitTableBatchedEmbeddingBagsCodegen(
        [
            (
                rows,
                dim,
                EmbeddingLocation.DEVICE if on_gpu else EmbeddingLocation.HOST,
                ComputeDevice.CUDA if on_gpu else ComputeDevice.CPU,
            )
        ],
        pooling_mode=PoolingMode[POOLING[pooling]],
        bounds_check_mode=BoundsCheckMode.NONE,
        device=torch.device(device, 0) if on_gpu else torch.device(device),
    )
    with torch.no_grad():
        module.split_embedding_weights()[0].copy_(table)
    return module


def _inference(table: Any, rows: int, dim: int, pooling: str, device: str, index_dtype: Any) -> Any:
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

    where = EmbeddingLocation.DEVICE if device == "cuda" else EmbeddingLocation.HOST
    return IntNBitTableBatchedEmbeddingBagsCodegen(
        [("table", rows, dim, SparseType.FP32, where)],
        device=device,
        pooling_mode=PoolingMode[POOLING[pooling]],
        bounds_check_mode=BoundsCheckMode.NONE,
        output_dtype=SparseType.FP32,
        weight_lists=[(table.view(torch.uint8), None)],
        indices_dtype=index_dtype,
    )
