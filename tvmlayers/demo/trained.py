"""A network trained with PyTorch, and the same model in tvmlayers with its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import tvmlayers as tl

SEED = 20_26


@dataclass(frozen=True)
class Trained:
    """One task of the demonstration.

    network: (batch, ...) -> (batch, classes) probabilities, as `model` computes them too;
    inputs: (samples, ...) and labels: (samples,), the data that training never saw.
    """

    name: str
    task: str
    network: torch.nn.Module
    model: tl.Sequential
    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    train_seconds: float


def fit(
    network: torch.nn.Module,
    inputs: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int = 64,
) -> None:
    """Trains `network`, (batch, ...) -> (batch, classes) logits, in place and reproducibly."""
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    order = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    loss_of = torch.nn.CrossEntropyLoss()
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(batch_size):
            optimizer.zero_grad()
            loss_of(network(x[batch]), y[batch]).backward()
            optimizer.step()
    network.eval()


def set_dense(layer: tl.Layer, linear: torch.nn.Linear) -> None:
    """Copies a torch Linear, whose weight is (out, in), into a Dense, whose kernel is (in, out)."""
    layer.set_weights([linear.weight.detach().numpy().T, linear.bias.detach().numpy()])


def set_embedding(layer: tl.Layer, table: torch.nn.Embedding | torch.nn.EmbeddingBag) -> None:
    """Copies a torch table into an Embedding or EmbeddingBag; both are (rows, columns)."""
    layer.set_weights([table.weight.detach().numpy()])
