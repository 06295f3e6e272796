"""Handwritten digits: 8x8 grey images that scikit-learn carries -> which digit it is."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tvmlayers as tl
from tvmlayers.demo.trained import SEED, Trained, fit, linear

PIXELS, HIDDEN, CLASSES = 64, 128, 10


def train(epochs: int = 40) -> Trained:
    """A 64-128-10 classifier and the third of the 1,797 images that it never saw."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32)
    seen, unseen, seen_labels, unseen_labels = train_test_split(
        images, labels.astype(np.int64), test_size=1 / 3, random_state=SEED, stratify=labels
    )

    hidden = tl.Dense(units=HIDDEN, activation="relu", seed=SEED)
    output = tl.Dense(units=CLASSES, activation="softmax", seed=SEED + 1)
    model = tl.Sequential([hidden, output])
    model.build((None, PIXELS))
    train_seconds = fit(model, seen, seen_labels, epochs=epochs, learning_rate=2e-3)

    parts = linear(hidden), torch.nn.ReLU(), linear(output), torch.nn.Softmax(dim=-1)
    return Trained(
        name="digits",
        task="digits: 8x8 images, 64-128-10",
        network=torch.nn.Sequential(*parts).eval(),
        model=model,
        inputs=unseen,
        labels=unseen_labels,
        train_seconds=train_seconds,
    )
