"""Lookups and bags on the GPU here, beside PyTorch, FBGEMM and what its memory can move."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from bench import cuda_fbgemm, work
from bench.cases import BagCase, EmbeddingCase
from bench.peers import Unsupported
from bench.work import Array, BagWork, EmbeddingWork

COPIED = 1 << 30  # bytes, far more than any cache holds
Calls = list[Callable[[], Any]]  # on one set of indices each
Times = Callable[[dict[str, Callable[[], Any]]], dict[str, float]]


def row(
    case: EmbeddingCase | BagCase, target: str, peers: list[str], bandwidth: float, times: Times
) -> dict[str, Any]:
    """What is reported of one case. bandwidth: measured, bytes a second.

    The calls go through as many sets of indices as overflow the second-level cache.
    """
    import torch

    l2 = int(torch.cuda.get_device_properties(0).L2_cache_size)
    given = work.make(case, "rotated", "float32", "int64", l2)
    assert isinstance(given, (EmbeddingWork, BagWork))
    ways, skipped = ways_of(given, target, peers)
    results = {name: calls[0]() for name, calls in ways.items()}
    agrees = {name: _agree(made, results["torch"]) for name, made in results.items()}
    del results
    found = times({name: rotation(calls) for name, calls in ways.items()})
    return {
        "case": case.spec,
        "kind": case.kind,
        "data": given.data,
        "agrees": all(agrees.values()),
        "wrong": [name for name, right in agrees.items() if not right],
        "us": found,
        "skipped": skipped,
        "ours_gb_per_s": moved_bytes(given) / found["ours"] / 1e3,
        "of_bandwidth": of_bandwidth(moved_bytes(given), found["ours"], bandwidth),
    }


def ways_of(
    given: EmbeddingWork | BagWork, target: str, peers: list[str], device: str = "cuda"
) -> tuple[dict[str, Calls], dict[str, str]]:
    """Ours, PyTorch's and the asked peers' calls on a device; and why a peer is left out."""
    import torch

    import tvmlayers as tl

    def put(array: Array) -> Any:
        return torch.from_numpy(array).to(device)

    rows, dim = given.table.shape
    table, sets = put(given.table), [(put(ids),) for ids in given.indices]
    if isinstance(given, BagWork):
        mode, starts = given.case.mode, given.offsets
        layer: Any = tl.EmbeddingBag(rows, dim, mode=mode, oob="clip")
        if given.case.ragged:
            sets = [(*ids, put(each)) for ids, each in zip(sets, starts, strict=True)]
        pool = torch.nn.functional.embedding_bag
        eager = [partial(pool, ids, table, *more, mode=mode) for ids, *more in sets]
    else:
        mode, starts = cuda_fbgemm.LOOKUP, [np.arange(len(ids)) for ids in given.indices]
        layer = tl.Embedding(rows, dim, oob="clip", input_shape=())
        eager = [partial(torch.nn.functional.embedding, ids, table) for (ids,) in sets]
    layer.set_weights([given.table])
    ours = tl.compile(tl.Sequential([layer]), target=target)
    ways: dict[str, Calls] = {"ours": [partial(ours, *each) for each in sets], "torch": eager}
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


def rotation(calls: Calls) -> Callable[[], Any]:
    """What makes the next of the calls each time, the first after the last."""
    turns = cycle(calls)
    return lambda: next(turns)()


def moved_bytes(given: EmbeddingWork | BagWork) -> int:
    """Bytes that a call on the first set has to move: rows, indices and offsets, and the result."""
    (ids, *_), table = given.indices, given.table
    read = ids.size * (table.shape[1] * table.itemsize + ids.itemsize)
    if isinstance(given, EmbeddingWork):
        return int(read + ids.size * table.shape[1] * table.itemsize)
    read += given.offsets[0].nbytes if given.case.ragged else 0
    return int(read + given.case.bags * table.shape[1] * table.itemsize)


def of_bandwidth(moved: int, microseconds: float, bandwidth: float) -> float:
    """The fraction of the bandwidth, bytes a second; above 1 where a cache serves a part."""
    return moved / (microseconds * 1e-6) / bandwidth


def bandwidth(times: Times) -> float:
    """Bytes a second that the GPU's memory moves in a copy, read and written."""
    import torch

    source = torch.empty(COPIED, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    found = times({"copy": lambda: target.copy_(source)})
    return 2 * COPIED / (found["copy"] * 1e-6)


def _agree(made: Any, wanted: Any) -> bool:
    import torch

    return bool(torch.allclose(made, wanted, rtol=1e-5, atol=1e-5))
