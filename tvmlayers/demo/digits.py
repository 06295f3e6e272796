"""Handwritten digits: 8x8 grey images that scikit-learn carries -> which digit it is."""

from __future__ import annotations

import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tvmlayers as tl
from tvmlayers.demo.trained import SEED, Trained, fit, set_dense

PIXELS, HIDDEN, CLASSES = 64, 128, 10


def train(epochs: int = 40) -> Trained:
    """A 64-128-10 classifier and the third of the 1,797 images that it never saw."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32)
    seen, unseen, seen_labels, unseen_labels = train_test_split(
        images, labels.astype(np.int64), test_size=1 / 3, random_state=SEED, stratify=labels
    )

    torch.manual_seed(SEED)
    hidden, output = torch.nn.Linear(PIXELS, HIDDEN), torch.nn.Linear(HIDDEN, CLASSES)
    logits = torch.nn.Sequential(hidden, torch.nn.ReLU(), output)
    start = time.perf_counter()
    fit(logits, seen, seen_labels, epochs=epochs, learning_rate=2e-3)
    train_seconds = time.perf_counter() - start

    model = tl.Sequential(
        [
            tl.Dense(units=HIDDEN, activation="relu"),
            tl.Dense(units=CLASSES, activation="softmax"),
        ]
    )
    model.build((None, PIXELS))
    set_dense(model.layers[0], hidden)
    set_dense(model.layers[1], output)
    return Trained(
        name="digits",
        task="digits: 8x8 images, 64-128-10",
        network=torch.nn.Sequential(logits, torch.nn.Softmax(dim=-1)),
        model=model,
        inputs=unseen,
        labels=unseen_labels,
        train_seconds=train_seconds,
    )
