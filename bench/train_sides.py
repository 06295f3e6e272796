"""Steps of each contender: ours, PyTorch, torch.compile, FBGEMM's tables and JAX.

A side's calls are steps over the case's batches in turn; each gives the loss as a Python float.
"""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tvmlayers as tl
from bench.train_cases import BAG, BOTTOM, PER_TABLE, ROWS, TABLES, TOP, WIDTH, TrainCase

Call = Callable[[], float]


def ours(case: TrainCase, threads: int) -> list[Call]:
    """A compiled step."""
    rate = case.rate
    made = {
        "sgd": tl.optimizers.SGD(rate),
        "adam": tl.optimizers.Adam(rate),
        "adagrad": tl.optimizers.Adagrad(rate),
        "rowwise_adagrad": tl.optimizers.RowwiseAdagrad(rate),
    }[case.optimizer]
    others = made if case.model == "seed" else tl.optimizers.SGD(rate)
    loss = "binary_crossentropy" if case.model == "dlrm" else "sparse_categorical_crossentropy"
    step = tl.compile_step(_OURS[case.model](), loss, others, tables=made, threads=threads)

    def call(x: tuple[Any, ...], y: Any) -> float:
        return step(x, y)

    return [partial(call, x, y) for x, y in case.data()]


def _our_seed() -> tl.Model:
    return tl.Sequential(
        [
            tl.Embedding(5000, 64, input_length=10),
            tl.Flatten(),
            tl.Dense(128, activation="relu"),
            tl.Dense(10, activation="softmax"),
        ]
    )


def _our_text() -> tl.Model:
    bag = tl.EmbeddingBag(20_000, 64, mode="mean", input_shape=(BAG,))
    return tl.Sequential([bag, tl.Dense(4, activation="softmax")])


def _our_dlrm() -> tl.Model:
    numbers = tl.Input((13,))
    ids = [tl.Input((PER_TABLE,), dtype="int64") for _ in range(TABLES)]
    bags = [tl.EmbeddingBag(ROWS, WIDTH, mode="sum")(each) for each in ids]
    bottom: Any = numbers
    for units in BOTTOM:
        bottom = tl.Dense(units, activation="relu")(bottom)
    top: Any = tl.Concatenate()([bottom, tl.DotInteraction()([bottom, *bags])])
    for units in TOP:
        top = tl.Dense(units, activation="relu")(top)
    return tl.Model([numbers, *ids], tl.Dense(1, activation="sigmoid")(top))


_OURS: dict[str, Callable[[], tl.Model]] = {
    "seed": _our_seed,
    "text": _our_text,
    "dlrm": _our_dlrm,
}


class _Seed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(5000, 64)])
        self.dense = nn.Sequential(nn.Linear(640, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, ids: Tensor) -> Any:
        return self.dense(self.tables[0](ids).flatten(1))


class _Text(nn.Module):
    def __init__(self, tables: nn.ModuleList) -> None:
        super().__init__()
        self.tables, self.dense = tables, nn.Linear(64, 4)

    def forward(self, *ids: Tensor) -> Any:
        return self.dense(self.tables[0](*ids))


def _layers(first: int, widths: Sequence[int]) -> list[nn.Module]:
    made: list[nn.Module] = []
    for before, after in zip((first, *widths), widths, strict=False):
        made += [nn.Linear(before, after), nn.ReLU()]
    return made


class _Dlrm(nn.Module):
    def __init__(self, tables: nn.ModuleList) -> None:
        super().__init__()
        pairs = TABLES * (TABLES + 1) // 2
        top = [*_layers(WIDTH + pairs, TOP), nn.Linear(TOP[-1], 1)]
        self.tables = tables
        self.dense = nn.ModuleList([nn.Sequential(*_layers(13, BOTTOM)), nn.Sequential(*top)])
        self.pairs = torch.tril_indices(TABLES + 1, TABLES + 1, -1)

    def forward(self, numbers: Tensor, *ids: Tensor) -> Any:
        bottom = self.dense[0](numbers)
        if len(self.tables) == 1:  # all tables in one module
            looked_up = self.tables[0](*ids)
        else:
            looked_up = torch.stack([t(i) for t, i in zip(self.tables, ids, strict=True)], 1)
        features = torch.cat([bottom[:, None], looked_up], 1)
        dots = features @ features.mT
        return self.dense[1](torch.cat([bottom, dots[:, self.pairs[0], self.pairs[1]]], 1))


class _Fbgemm(nn.Module):
    """FBGEMM's tables, which update themselves in the backward pass."""

    def __init__(self, case: TrainCase) -> None:
        super().__init__()
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            EmbeddingLocation,
            OptimType,
            PoolingMode,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        count, rows = (TABLES, ROWS) if case.model == "dlrm" else (1, 20_000)
        kind = {
            "sgd": OptimType.EXACT_SGD,
            "adagrad": OptimType.EXACT_ADAGRAD,
            "rowwise_adagrad": OptimType.EXACT_ROWWISE_ADAGRAD,
        }[case.optimizer]
        self.table = SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, 64, EmbeddingLocation.HOST, ComputeDevice.CPU)] * count,
            optimizer=kind,
            learning_rate=case.rate,
            eps=1e-8,
            pooling_mode=PoolingMode.SUM if count > 1 else PoolingMode.MEAN,
        )
        self.table.init_embedding_weights_uniform(-0.05, 0.05)
        self.shape = (-1, TABLES, WIDTH) if count > 1 else (-1, 64)

    def forward(self, ids: Tensor, offsets: Tensor) -> Any:
        return self.table(ids, offsets).view(self.shape)


def _tables(case: TrainCase) -> nn.ModuleList:
    count, rows = (TABLES, ROWS) if case.model == "dlrm" else (1, 20_000)
    mode = "sum" if count > 1 else "mean"
    made = [nn.EmbeddingBag(rows, 64, mode=mode, sparse=True) for _ in range(count)]
    return nn.ModuleList(made)


def _module(case: TrainCase, tables: nn.ModuleList | None = None) -> nn.Module:
    torch.manual_seed(0)
    if case.model == "seed":
        return _Seed()
    kind = _Text if case.model == "text" else _Dlrm
    return kind(_tables(case) if tables is None else tables)


def _optimizers(case: TrainCase, module: Any, *, own_tables: bool) -> list[Any]:
    """own_tables: the tables update themselves. PyTorch has no row-wise Adagrad."""
    tables, dense = list(module.tables.parameters()), list(module.dense.parameters())
    if case.model == "seed":
        kind = torch.optim.SGD if case.optimizer == "sgd" else torch.optim.Adam
        return [kind([*tables, *dense], case.rate, fused=True)]
    made: list[Any] = [torch.optim.SGD(dense, case.rate, fused=True)]
    if not own_tables:
        kind = torch.optim.SGD if case.optimizer == "sgd" else torch.optim.Adagrad
        made.append(kind(tables, case.rate))
    return made


def _torch_loss(case: TrainCase, module: nn.Module, x: tuple[Tensor, ...], y: Tensor) -> Tensor:
    output = module(*x)
    if case.model == "dlrm":
        return F.binary_cross_entropy_with_logits(output, y)
    return F.cross_entropy(output, y)


def pytorch(case: TrainCase, threads: int, *, compiled: bool = False) -> list[Call]:
    """Eager PyTorch with sparse gradients of tables where their optimiser takes them."""
    torch.set_num_threads(threads)
    module = _module(case)
    optimizers = _optimizers(case, module, own_tables=False)
    data = [
        (tuple(torch.from_numpy(each) for each in x), torch.from_numpy(y)) for x, y in case.data()
    ]
    loss = partial(_torch_loss, case, module)
    return _torch_calls(torch.compile(loss) if compiled else loss, optimizers, data)


def fbgemm(case: TrainCase, threads: int) -> list[Call]:
    """PyTorch with FBGEMM's tables; of bags alone."""
    if case.model == "seed":
        raise LookupError("FBGEMM has tables of bags")
    torch.set_num_threads(threads)
    module = _module(case, nn.ModuleList([_Fbgemm(case)]))
    optimizers = _optimizers(case, module, own_tables=True)
    data = []
    for x, y in case.data():
        *numbers, ids = (*x[:1], np.stack(x[1:])) if case.model == "dlrm" else x
        flat = torch.from_numpy(np.ascontiguousarray(ids).reshape(-1))
        offsets = torch.arange(0, flat.numel() + 1, ids.shape[-1])
        given = [*map(torch.from_numpy, numbers), flat, offsets]
        data.append((tuple(given), torch.from_numpy(y)))
    return _torch_calls(partial(_torch_loss, case, module), optimizers, data)


def _torch_calls(loss: Any, optimizers: list[Any], data: Sequence[Any]) -> list[Call]:
    def call(x: tuple[Tensor, ...], y: Tensor) -> float:
        found = loss(x, y)
        for each in optimizers:
            each.zero_grad(set_to_none=True)
        found.backward()
        for each in optimizers:
            each.step()
        return float(found.detach())

    return [partial(call, x, y) for x, y in data]


def jax(case: TrainCase, threads: int) -> list[Call]:
    """A jitted step; see `train_jax`."""
    from bench.train_jax import calls

    return calls(case)


SIDES: dict[str, Callable[[TrainCase, int], list[Call]]] = {
    "ours": ours,
    "torch": pytorch,
    "torch.compile": partial(pytorch, compiled=True),
    "fbgemm": fbgemm,
    "jax": jax,
}
