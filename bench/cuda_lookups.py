"""Lookups and bags on the GPU here, beside PyTorch, FBGEMM and what its memory can move."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from bench import cuda_fbgemm, work
from bench.cases import BagCase, EmbeddingCase
from bench.cuda_rows import OURS, Calls, Prepared
from bench.peers import Unsupported
from bench.reference import WrongResult
from bench.work import Array, BagWork, EmbeddingWork


def prepare(
    dtype: str,
    case: EmbeddingCase | BagCase,
    target: str,
    peers: list[str],
    device: str = "cuda",
) -> Prepared:
    """Ours, PyTorch's and the asked peers' calls; WrongResult where one differs from PyTorch's.

    The calls go through as many sets of indices as overflow the second-level cache.
    """
    import torch

    l2 = int(torch.cuda.get_device_properties(0).L2_cache_size) if device == "cuda" else 0
    given = work.make(case, "rotated", dtype, "int64", l2)
    assert isinstance(given, (EmbeddingWork, BagWork))
    begun = time.perf_counter()
    compiled = compile_layer(given, target)
    seconds = time.perf_counter() - begun
    ways, skipped = ways_of(given, compiled, peers, device)
    results = {name: calls[0]() for name, calls in ways.items()}
    for name, made in results.items():
        if not torch.allclose(made, results["torch"], rtol=1e-5, atol=1e-5):
            raise WrongResult(f"{case.spec}: {name} differs from torch")
    moved = moved_bytes(given)
    if device == "cuda":
        compiled.deferred = True  # a look at the offsets' flag waits, and no peer has one
    return Prepared(case, dtype, given.data, compiled, seconds, ways, moved, skipped=skipped)


def compile_layer(given: EmbeddingWork | BagWork, target: str) -> Any:
    """The layer with the table of the work, compiled."""
    import tvmlayers as tl

    rows, dim = given.table.shape
    if isinstance(given, BagWork):
        layer: Any = tl.EmbeddingBag(rows, dim, mode=given.case.mode, oob="clip")
    else:
        layer = tl.Embedding(rows, dim, oob="clip", input_shape=())
    layer.set_weights([given.table])
    return tl.compile(tl.Sequential([layer]), target=target)


def ways_of(
    given: EmbeddingWork | BagWork, compiled: Any, peers: list[str], device: str = "cuda"
) -> tuple[dict[str, Calls], dict[str, str]]:
    """Ours, PyTorch's and the asked peers' calls on a device; and why a peer is left out."""
    import torch

    def put(array: Array) -> Any:
        return torch.from_numpy(array).to(device)

    table, sets = put(given.table), [(put(ids),) for ids in given.indices]
    if isinstance(given, BagWork):
        mode, starts = given.case.mode, given.offsets
        if given.case.ragged:
            sets = [(*ids, put(each)) for ids, each in zip(sets, starts, strict=True)]
        pool = torch.nn.functional.embedding_bag
        eager = [partial(pool, ids, table, *more, mode=mode) for ids, *more in sets]
    else:
        mode, starts = cuda_fbgemm.LOOKUP, [np.arange(len(ids)) for ids in given.indices]
        eager = [partial(torch.nn.functional.embedding, ids, table) for (ids,) in sets]
    own = [partial(compiled, *each) for each in sets]
    ways: dict[str, Calls] = {OURS: own, "torch": eager}
    skipped: dict[str, str] = {}
    if cuda_fbgemm.NAME in peers:
        try:
            reason = cuda_fbgemm.missing()
            if reason is not None:
                raise Unsupported(reason)
            pairs = [
                (ids.reshape(-1), put(np.append(begin, ids.numel())))
                for (ids, *_), begin in zip(sets, starts, strict=True)
            ]
            ways |= cuda_fbgemm.ways(table, mode, pairs, device)
        except Unsupported as error:
            skipped[cuda_fbgemm.NAME] = str(error)
    return ways, skipped


def moved_bytes(given: EmbeddingWork | BagWork) -> int:
    """Bytes that a call on the first set has to move: rows, indices and offsets, and the result."""
    (ids, *_), table = given.indices, given.table
    read = ids.size * (table.shape[1] * table.itemsize + ids.itemsize)
    if isinstance(given, EmbeddingWork):
        return int(read + ids.size * table.shape[1] * table.itemsize)
    read += given.offsets[0].nbytes if given.case.ragged else 0
    return int(read + given.case.bags * table.shape[1] * table.itemsize)
