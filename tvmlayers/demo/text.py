"""Paragraphs of documentation -> the package they come from: embedding, mean, dense."""

from __future__ import annotations

import time

import torch

import tvmlayers as tl
from tvmlayers.demo.corpus import PACKAGES, PADDING_ID, PARAGRAPH_WORDS, load_corpus
from tvmlayers.demo.trained import SEED, Trained, fit, set_dense, set_embedding

VOCABULARY, COLUMNS = 5000, 64


def train(train_size: int = 8000, held_out_size: int = 2000, epochs: int = 5) -> Trained:
    """A bag-of-words classifier and the paragraphs that it never saw."""
    seen, unseen = load_corpus(train_size, held_out_size, VOCABULARY)

    torch.manual_seed(SEED)
    # Embedding and mean over words in one pass, padding left out, on both sides.
    bag = torch.nn.EmbeddingBag(VOCABULARY, COLUMNS, mode="mean", padding_idx=PADDING_ID)
    output = torch.nn.Linear(COLUMNS, len(PACKAGES))
    logits = torch.nn.Sequential(bag, output)
    start = time.perf_counter()
    fit(logits, seen.ids, seen.labels, epochs=epochs, learning_rate=5e-3)
    train_seconds = time.perf_counter() - start

    model = tl.Sequential(
        [
            tl.Input(shape=(PARAGRAPH_WORDS,), dtype="int64"),
            tl.EmbeddingBag(VOCABULARY, COLUMNS, mode="mean", padding_idx=PADDING_ID),
            tl.Dense(units=len(PACKAGES), activation="softmax"),
        ]
    )
    set_embedding(model.layers[0], bag)
    set_dense(model.layers[1], output)
    return Trained(
        name="text",
        task="text: which of 4 packages a paragraph documents",
        network=torch.nn.Sequential(logits, torch.nn.Softmax(dim=-1)),
        model=model,
        inputs=unseen.ids,
        labels=unseen.labels,
        train_seconds=train_seconds,
    )
