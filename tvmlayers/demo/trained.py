"""A model trained with tvmlayers, and the same network in PyTorch with its weights."""

from __future__ import annotations

import time
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
    model: tl.Model,
    inputs: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    epochs: int,
    learning_rate: float,
) -> float:
    """Trains a classifier in place and reproducibly; the seconds without those of compiling."""
    model.compile(tl.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy")
    model.fit(inputs, labels, epochs=0, verbose=0)  # compiles the step
    start = time.perf_counter()
    model.fit(inputs, labels, batch_size=64, epochs=epochs, seed=SEED, verbose=0)
    return time.perf_counter() - start


def linear(layer: tl.Layer) -> torch.nn.Linear:
    """A Dense, whose kernel is (in, out), as a torch Linear, whose weight is (out, in)."""
    kernel, bias = layer.get_weights()
    made = torch.nn.Linear(*kernel.shape)
    made.load_state_dict({"weight": torch.from_numpy(kernel.T), "bias": torch.from_numpy(bias)})
    return made


def bag(layer: tl.EmbeddingBag) -> torch.nn.EmbeddingBag:
    """An EmbeddingBag as torch's; both tables are (rows, columns)."""
    (table,) = layer.get_weights()
    return torch.nn.EmbeddingBag.from_pretrained(
        torch.from_numpy(table), mode=layer.mode, padding_idx=layer.padding_idx
    )
