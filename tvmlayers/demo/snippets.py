"""The two models of a Keras tutorial, with `tl` in place of `tf.keras` and its layers."""

from __future__ import annotations

from collections.abc import Callable

import tvmlayers as tl


def embedding_snippet() -> tl.Sequential:
    """10 word ids -> 10 vectors of 64 numbers."""
    model = tl.Sequential([tl.Embedding(input_dim=5000, output_dim=64, input_length=10)])
    return model


def dense_snippet() -> tl.Sequential:
    """Any number of features -> 10 probabilities; the features are counted at the first build."""
    model = tl.Sequential(
        [
            tl.Dense(units=128, activation="relu"),
            tl.Dense(units=10, activation="softmax"),
        ]
    )
    model.build((None, 64))
    return model


SNIPPETS: dict[str, Callable[[], tl.Sequential]] = {
    "embedding": embedding_snippet,
    "dense": dense_snippet,
}
