"""Sentence vectors of wordllama's static embeddings, compiled: a mean of token vectors, normalised.

`python -m examples.static_embeddings` after `pip install '.[examples]'`. The 32,000 token vectors
come with the package wordllama; the sentences are docstrings of Python's standard library.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import wordllama
from numpy.typing import NDArray

import tvmlayers as tl
from examples.side_by_side import Side, print_table
from examples.texts import sentences

PADDING = 0  # wordllama's own


def load() -> Any:
    """wordllama's model, from the files of its package alone."""
    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


def model_of(original: Any) -> tl.Sequential:
    """The same as layers: a bag that averages, then a division by the length."""
    rows, width = original.embedding.shape
    bag = tl.EmbeddingBag(rows, width, mode="mean", padding_idx=PADDING)
    model = tl.Sequential([tl.Input((None,), dtype="int64"), bag, tl.UnitNormalization()])
    bag.set_weights([original.embedding])
    return model


def token_ids(original: Any, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(ids, mask) of texts, filled up to the longest one."""
    encoded = original.tokenize(texts)
    ids = np.array([each.ids for each in encoded], np.int64)
    return ids, np.array([each.attention_mask for each in encoded], np.float32)


def of_wordllama(original: Any, ids: NDArray[Any], mask: NDArray[Any]) -> NDArray[np.float32]:
    """What wordllama computes of tokens."""
    vectors = original.avg_pool(original.embedding[ids], mask)
    length: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / length, np.float32)


def main() -> int:
    """Compare and time; the exit status is 1 where vectors differ."""
    original, texts = load(), sentences()
    compiled = tl.compile(model_of(original))
    ids, _ = token_ids(original, texts)
    expected = original.embed(texts, norm=True)
    cosine = float((compiled(ids) * expected).sum(axis=1).min())
    print(f"{len(texts)} sentences of up to {ids.shape[1]} tokens, least cosine {cosine:.7f}")
    rows = []
    for batch in (1, 256):
        some, kept = token_ids(original, texts[:batch])
        bound = compiled.bind(some)
        sides = [
            Side("tvmlayers", bound),
            Side("wordllama", lambda some=some, kept=kept: of_wordllama(original, some, kept)),
        ]
        rows.append((f"batch {batch}", sides))
    print_table(rows)
    return 0 if cosine > 0.99999 else 1


if __name__ == "__main__":
    sys.exit(main())
