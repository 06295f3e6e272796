"""A model trained by several processes, each on its own share of the data: local SGD.

`python -m examples.data_parallel` after `pip install '.[torch]'`. The processes speak through
`torch.distributed` (gloo). After every so many steps they replace their weights by the mean of all,
in one bucket. Where that is each step, and the optimiser is SGD without momentum, the mean of the
weights is one step with the mean of the gradients: data parallel training as of one process with
the batches of all together. With fewer exchanges, or with an optimiser that keeps states, of which
each process has its own, it is local SGD (Stich, 2019), which is something else.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing

import tvmlayers as tl

RANKS, STEPS, BATCH = 2, 60, 32


class Averaging(tl.callbacks.Callback):
    """Averages the weights of all processes after every `every` steps, and at the end."""

    def __init__(self, every: int = 1) -> None:
        self.every = every

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.step.iterations % self.every == 0:
            average(self.step)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        average(self.step)
        self.step.update_model()


def average(step: tl.TrainingStep) -> None:
    """The mean of the weights of all processes becomes the weights of each."""
    weights = step.weights()
    bucket = torch.from_numpy(np.concatenate([array.ravel() for array in weights.values()]))
    torch.distributed.all_reduce(bucket)
    parts = np.split(bucket.numpy() / torch.distributed.get_world_size(), _ends(weights))
    step.set_weights(
        {
            name: part.reshape(array.shape)
            for (name, array), part in zip(weights.items(), parts, strict=True)
        }
    )


def _ends(weights: dict[str, np.ndarray]) -> list[int]:
    return np.cumsum([array.size for array in weights.values()]).tolist()[:-1]


def model() -> tl.Sequential:
    """The same first weights in each process."""
    hidden = tl.Dense(32, activation="relu", input_dim=16, seed=1)
    return tl.Sequential([hidden, tl.Dense(4, activation="softmax", seed=2)])


def data() -> tuple[np.ndarray, np.ndarray]:
    """Points and the nearest of four centres."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * BATCH * RANKS, 16)).astype(np.float32)
    return x, (x @ rng.normal(size=(16, 4))).argmax(axis=1)


def work(rank: int, folder: str, every: int) -> None:
    """One process: every `RANKS`-th sample is its own."""
    store = torch.distributed.FileStore(os.path.join(folder, "store"), RANKS)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    x, y = (each[rank::RANKS] for each in data())
    made = model()
    made.compile(tl.optimizers.SGD(0.5), "sparse_categorical_crossentropy", threads=1)
    made.fit(
        np.ascontiguousarray(x),
        np.ascontiguousarray(y),
        batch_size=BATCH,
        shuffle=False,
        callbacks=[Averaging(every)],
        verbose=0,
    )
    made.save(Path(folder) / f"rank-{rank}.safetensors")
    torch.distributed.destroy_process_group()


def train(every: int, folder: str) -> list[tl.Model]:
    """The models of all processes."""
    torch.multiprocessing.spawn(work, args=(folder, every), nprocs=RANKS)
    paths = [Path(folder) / f"rank-{rank}.safetensors" for rank in range(RANKS)]
    return [tl.load_model(path) for path in paths]


def alone() -> tl.Sequential:
    """The same by one process: its batches are those of all processes together."""
    made = model()
    made.compile(tl.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    made.fit(*data(), batch_size=RANKS * BATCH, shuffle=False, verbose=0)
    return made


def main(arguments: Sequence[str] = ()) -> int:
    """Train by two processes and by one; the exit status is 1 where they differ."""
    every = int(arguments[0]) if arguments else 1
    with tempfile.TemporaryDirectory() as folder:
        first, second = train(every, folder)
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    same = all(np.array_equal(a, b) for a, b in pairs)
    whole = alone()
    apart = max(
        float(np.abs(a - b).max())
        for a, b in zip(first.get_weights(), whole.get_weights(), strict=True)
    )
    x, y = data()
    right = [float(np.mean(each(x).argmax(axis=1) == y)) for each in (first, whole)]
    print(
        f"{RANKS} processes, an exchange every {every} steps: weights are the same in all: {same}; "
        f"{apart:.1e} from those of one process; accuracy {right[0]:.3f}, alone {right[1]:.3f}"
    )
    return 0 if same and (every > 1 or apart < 1e-4) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
