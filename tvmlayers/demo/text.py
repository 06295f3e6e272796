"""Paragraphs of documentation -> the package they come from: embedding, mean, dense."""

from __future__ import annotations

import torch

import tvmlayers as tl
from tvmlayers.demo.corpus import PACKAGES, PADDING_ID, PARAGRAPH_WORDS, load_corpus
from tvmlayers.demo.trained import SEED, Trained, bag, fit, linear

VOCABULARY, COLUMNS = 5000, 64


def train(train_size: int = 8000, held_out_size: int = 2000, epochs: int = 5) -> Trained:
    """A bag-of-words classifier and the paragraphs that it never saw."""
    seen, unseen = load_corpus(train_size, held_out_size, VOCABULARY)

    # Embedding and mean over words in one pass, padding left out, on both sides.
    words = tl.EmbeddingBag(VOCABULARY, COLUMNS, mode="mean", padding_idx=PADDING_ID, seed=SEED)
    output = tl.Dense(units=len(PACKAGES), activation="softmax", seed=SEED + 1)
    model = tl.Sequential([tl.Input(shape=(PARAGRAPH_WORDS,), dtype="int64"), words, output])
    train_seconds = fit(model, seen.ids, seen.labels, epochs=epochs, learning_rate=5e-3)

    parts = bag(words), linear(output), torch.nn.Softmax(dim=-1)
    return Trained(
        name="text",
        task="text: which of 4 packages a paragraph documents",
        network=torch.nn.Sequential(*parts).eval(),
        model=model,
        inputs=unseen.ids,
        labels=unseen.labels,
        train_seconds=train_seconds,
    )
