"""Small random networks in PyTorch, imported, compiled and equal."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tvmlayers as tl

ROWS, LENGTH = 30, 6
FUNCTIONS = [
    F.relu,
    F.gelu,
    F.silu,
    F.mish,
    F.softplus,
    F.hardswish,
    F.elu,
    F.selu,
    F.softsign,
    torch.tanh,
    torch.sigmoid,
]


class Network(nn.Module):
    """One to three sources, a chain of layers behind each, joined, and a head.

    Layers are taken from a pool now and then, so that some are shared.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.draw = random.Random(seed)
        torch.manual_seed(seed)
        self.kinds = [self.draw.choice(["bag", "rows", "dense"]) for _ in range(seed % 3 + 1)]
        self.tables = nn.ModuleList()
        self.layers = nn.ModuleList()
        self.plan = [self._source(kind) for kind in self.kinds]
        self.ending = self.draw.choice(["softmax", "log_softmax", "dot", "several", "none"])
        self.head = nn.Linear(sum(width for *_, width in self.plan), self.draw.randint(1, 9))

    def _source(self, kind: str) -> tuple[str, int, list[tuple[int, int]], int]:
        """(how it is read, number of its table, (layer, function) in turn, width)."""
        width, how = self.draw.randint(1, 20), kind
        if kind == "bag":
            mode = self.draw.choice(["sum", "mean", "max"])
            self.tables.append(nn.EmbeddingBag(ROWS, width, mode=mode))
        if kind == "rows":
            self.tables.append(nn.Embedding(ROWS, width))
            how = self.draw.choice(["mean", "sum", "amax", "flatten"])
            width *= LENGTH if how == "flatten" else 1
        if kind == "dense":
            width = LENGTH
        table = len(self.tables) - 1
        steps = []
        for _ in range(self.draw.randint(0, 3)):
            fitting = [i for i, layer in enumerate(self.layers) if layer.in_features == width]
            if not fitting or self.draw.random() < 0.5:
                out = self.draw.randint(1, 20)
                self.layers.append(nn.Linear(width, out, bias=self.draw.random() < 0.7))
                fitting = [len(self.layers) - 1]
            chosen = self.draw.choice(fitting)
            width = self.layers[chosen].out_features
            steps.append((chosen, self.draw.randrange(len(FUNCTIONS))))
        return how, table, steps, width

    def example(self) -> tuple[Tensor, ...]:
        return tuple(
            torch.randn(3, LENGTH) if kind == "dense" else torch.randint(0, ROWS, (3, LENGTH))
            for kind in self.kinds
        )

    def forward(self, *inputs: Tensor) -> object:
        ends = []
        for x, (how, table, steps, _) in zip(inputs, self.plan, strict=True):
            if how in ("bag", "mean", "sum", "amax", "flatten"):
                x = self.tables[table](x)
            if how == "flatten":
                x = x.flatten(1)
            elif how in ("mean", "sum", "amax"):
                x = getattr(x, how)(1)
            for layer, function in steps:
                x = FUNCTIONS[function](self.layers[layer](x))
            ends.append(F.dropout(x, 0.3, self.training))
        y = self.head(torch.cat(ends, 1))
        if self.ending == "dot":
            return (y * torch.tanh(y)).sum(-1)
        if self.ending == "several":
            return {"scores": y.softmax(-1), "hidden": [end.tanh() for end in ends]}
        return getattr(y, self.ending)(-1) if "softmax" in self.ending else y


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_are_equal(seed: int) -> None:
    network = Network(seed)
    model = tl.from_torch(network, network.example())
    used = {table for how, table, *_ in network.plan if how != "dense"}
    used_layers = {layer for _, _, steps, _ in network.plan for layer, _ in steps}
    kept = [layer for layer in model.layers if layer.has_weights]
    assert len(kept) == len(used) + len(used_layers) + 1  # shared layers are shared
    report = tl.verify(tl.compile(model), against=network, samples=(1, 7))
    assert report.ok, str(report)
