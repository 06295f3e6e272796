"""Four models trained with tvmlayers and with PyTorch from the same first weights, by five seeds.

`python -m examples.train` after `pip install '.[demo]'`; `--table` prints Markdown. The digits are
scikit-learn's, the paragraphs are docstrings of installed packages (as in `tvmlayers demo`). The
ratings of the collaborative filtering and the clicks of the DLRM are drawn from a hidden model.
Both sides shuffle by themselves, so that results differ as much as those of two seeds do.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

import tvmlayers as tl
from tvmlayers.demo.corpus import PACKAGES, PADDING_ID, PARAGRAPH_WORDS, load_corpus

SEEDS, SHARE = 5, 1.0  # of the data that there is
VOCABULARY = 5000
F = torch.nn.functional
Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Task:
    """A model of ours, the same in PyTorch, and the data: (inputs, truth), seen and held out.

    forward: from weights by name and inputs to logits; rate: of Adam.
    """

    name: str
    measure: str
    make: Callable[[int], tl.Model]
    forward: Callable[..., torch.Tensor]
    seen: tuple[list[np.ndarray], np.ndarray]
    held: tuple[list[np.ndarray], np.ndarray]
    epochs: int
    rate: float
    batch_size: int = 64

    def score(self, logits: np.ndarray) -> float:
        """Accuracy, or the area under the ROC curve."""
        y = self.held[1]
        if self.measure == "accuracy":
            return float(np.mean(logits.argmax(1) == y))
        return float(roc_auc_score(y, logits[:, 0]))

    @property
    def loss(self) -> tl.losses.Loss:
        if self.measure == "accuracy":
            return tl.losses.SparseCategoricalCrossentropy(from_logits=True)
        return tl.losses.BinaryCrossentropy(from_logits=True)


def digits() -> Task:
    """64-128-10 on 8x8 images."""
    x, y = load_digits(return_X_y=True)
    parts = train_test_split((x / 16).astype("float32"), y, random_state=0, stratify=y)
    x, held, y, labels = parts
    some = int(len(x) * SHARE)

    def make(seed: int) -> tl.Model:
        hidden = tl.Dense(128, activation="relu", input_dim=64, seed=seed)
        return tl.Sequential([hidden, tl.Dense(10, seed=seed + 100)])

    def forward(w: Weights, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(x @ w["dense/kernel"] + w["dense/bias"])
        return h @ w["dense_1/kernel"] + w["dense_1/bias"]

    seen = ([x[:some]], y[:some])
    return Task("digits", "accuracy", make, forward, seen, ([held], labels), 25, 2e-3)


def text() -> Task:
    """A bag of words: which of four packages a paragraph documents."""
    seen, held = load_corpus(int(8000 * SHARE), int(2000 * SHARE), VOCABULARY)

    def make(seed: int) -> tl.Model:
        bag = tl.EmbeddingBag(VOCABULARY, 64, mode="mean", padding_idx=PADDING_ID, seed=seed)
        words = tl.Input((PARAGRAPH_WORDS,), dtype="int64")
        return tl.Sequential([words, bag, tl.Dense(len(PACKAGES), seed=seed + 100)])

    def forward(w: Weights, ids: torch.Tensor) -> torch.Tensor:
        table = w["embedding_bag/embeddings"]
        h = F.embedding_bag(ids, table, mode="mean", padding_idx=PADDING_ID)
        return h @ w["dense/kernel"] + w["dense/bias"]

    data = ([seen.ids], seen.labels), ([held.ids], held.labels)
    return Task("text", "accuracy", make, forward, *data, 5, 5e-3)


def filtering(users: int = 400, items: int = 300, width: int = 16) -> Task:
    """Whether a user likes an item: the product of two rows, as drawn from hidden ones."""
    rng = np.random.default_rng(0)
    count = int(40_000 * SHARE)
    ids = [rng.integers(0, users, count), rng.integers(0, items, count)]
    hidden = rng.normal(size=(users, 4)), rng.normal(size=(items, 4))
    chance = 1 / (1 + np.exp(-2 * (hidden[0][ids[0]] * hidden[1][ids[1]]).sum(1)))
    y = (rng.uniform(size=count) < chance).astype(np.float32)

    def make(seed: int) -> tl.Model:
        inputs = [tl.Input((1,), dtype="int64", name=name) for name in ("user", "item")]
        rows = [
            tl.Flatten()(tl.Embedding(n, width, name=f"{each.name}s", seed=seed + n)(each))
            for n, each in zip((users, items), inputs, strict=True)
        ]
        return tl.Model(inputs, tl.Dot(1)(rows))

    def forward(w: Weights, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        rows = w["users/embeddings"][user[:, 0]], w["items/embeddings"][item[:, 0]]
        return (rows[0] * rows[1]).sum(1, keepdim=True)

    data = _split([each[:, None] for each in ids], y)
    return Task("collaborative filtering", "AUC", make, forward, *data, 6, 5e-3)


def dlrm(tables: int = 4, rows: int = 500, length: int = 5, width: int = 8) -> Task:
    """Clicks from numbers and bags of categories, by a small DLRM."""
    rng = np.random.default_rng(1)
    count = int(24_000 * SHARE)
    numbers = rng.normal(size=(count, 6)).astype(np.float32)
    ids = [rng.integers(0, rows, (count, length)) for _ in range(tables)]
    hidden = [rng.normal(size=(rows, 3))[each].mean(1) for each in ids]
    pairs = sum((hidden[i] * hidden[i - 1]).sum(1) for i in range(tables))
    logits = 3 * pairs + numbers @ rng.normal(size=6)
    y = (rng.uniform(size=count) < 1 / (1 + np.exp(-logits))).astype(np.float32)

    def make(seed: int) -> tl.Model:
        dense = tl.Input((6,), name="numbers")
        bags = [tl.Input((length,), dtype="int64", name=f"ids_{i}") for i in range(tables)]
        vectors = [tl.Dense(width, activation="relu", name="bottom", seed=seed)(dense)]
        for i, each in enumerate(bags):
            bag = tl.EmbeddingBag(rows, width, mode="mean", name=f"table_{i}", seed=seed + i)
            vectors.append(bag(each))
        joined = tl.Concatenate()([vectors[0], tl.DotInteraction()(vectors)])
        top = tl.Dense(32, activation="relu", name="top", seed=seed + 10)(joined)
        return tl.Model([dense, *bags], tl.Dense(1, name="click", seed=seed + 11)(top))

    def forward(w: Weights, numbers: torch.Tensor, *ids: torch.Tensor) -> torch.Tensor:
        vectors = [torch.relu(numbers @ w["bottom/kernel"] + w["bottom/bias"])]
        for i, each in enumerate(ids):
            vectors.append(F.embedding_bag(each, w[f"table_{i}/embeddings"], mode="mean"))
        stacked = torch.stack(vectors, 1)
        lower = torch.tril_indices(tables + 1, tables + 1, -1)
        dots = (stacked @ stacked.transpose(1, 2))[:, lower[0], lower[1]]
        h = torch.relu(torch.cat([vectors[0], dots], 1) @ w["top/kernel"] + w["top/bias"])
        return h @ w["click/kernel"] + w["click/bias"]

    return Task("small DLRM", "AUC", make, forward, *_split([numbers, *ids], y), 5, 5e-3)


TASKS = (digits, text, filtering, dlrm)


def _split(x: list[np.ndarray], y: np.ndarray) -> Any:
    held = len(y) // 4
    return ([each[:-held] for each in x], y[:-held]), ([each[-held:] for each in x], y[-held:])


def train_ours(task: Task, seeds: Sequence[int]) -> list[float]:
    """The scores of tvmlayers: one compiled step, which begins anew with each seed."""
    model = task.make(seeds[0])
    model.compile(tl.optimizers.Adam(task.rate), task.loss)
    scores = []
    for seed in seeds:
        model.set_weights(task.make(seed).get_weights())
        if (step := model.training_step) is not None:
            step.set_state({name: np.zeros_like(a) for name, a in step.state().items()})
        x, y = task.seen
        model.fit(x, y, task.batch_size, task.epochs, verbose=0, seed=seed)
        scores.append(task.score(model.predict(task.held[0], batch_size=512, verbose=0)))
    return scores


def train_torch(task: Task, seeds: Sequence[int]) -> list[float]:
    """The scores of PyTorch."""
    (x, y), held = task.seen, task.held[0]
    inputs, truth = [torch.from_numpy(each) for each in x], torch.from_numpy(y)
    scores = []
    for seed in seeds:
        order = torch.Generator().manual_seed(seed)
        first = task.make(seed).weights
        weights = {name: torch.tensor(w, requires_grad=True) for name, w in first.items()}
        adam = torch.optim.Adam(weights.values(), task.rate)
        for _ in range(task.epochs):
            for rows in torch.randperm(len(truth), generator=order).split(task.batch_size):
                adam.zero_grad()
                logits = task.forward(weights, *(each[rows] for each in inputs))
                if task.measure == "accuracy":
                    loss = F.cross_entropy(logits, truth[rows])
                else:
                    loss = F.binary_cross_entropy_with_logits(logits[:, 0], truth[rows])
                loss.backward()
                adam.step()
        with torch.inference_mode():
            made = task.forward(weights, *(torch.from_numpy(each) for each in held))
        scores.append(task.score(made.numpy()))
    return scores


def told(scores: Sequence[float]) -> str:
    """The mean and the range of some scores."""
    return f"{statistics.mean(scores):.4f} ({min(scores):.4f} to {max(scores):.4f})"


def main(arguments: Sequence[str] = ()) -> int:
    """Train and print; the exit status is 1 where the means lie further apart than the seeds of one
    side and 0.005."""
    form = "| {} | {} | {} | {} |" if "--table" in arguments else "{}, {}: tvmlayers {}, PyTorch {}"
    close, seeds = True, range(SEEDS)
    torch.set_num_threads(1)
    for make in TASKS:
        task = make()
        ours, theirs = train_ours(task, seeds), train_torch(task, seeds)
        print(form.format(task.name, task.measure, told(ours), told(theirs)), flush=True)
        apart = max(max(side) - min(side) for side in (ours, theirs))
        close &= abs(statistics.mean(ours) - statistics.mean(theirs)) <= apart + 0.005
    return 0 if close else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
