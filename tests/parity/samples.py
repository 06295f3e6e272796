"""One model that runs every kind of kernel, and inputs for it."""

from __future__ import annotations

from functools import cache

from agreement import Array, Twin, indices, normal

import tvmlayers as tl


def every_kernel(dtype: str = "float32") -> tl.Model:
    """(ids (n, n1), x (n, 31)) -> results of all kinds of kernels, of odd sizes."""
    ids, x = tl.Input((None,), name="ids"), tl.Input((31,), name="x", dtype=dtype)
    rows = tl.Embedding(97, 19, mask_zero=True, dtype=dtype)(ids)
    bags = [tl.EmbeddingBag(97, 16, mode=mode, dtype=dtype)(ids) for mode in ("mean", "max")]
    pooled = tl.GlobalAveragePooling1D()(rows)
    hidden = tl.Dense(93, "relu", dtype=dtype)(x)
    crossed = tl.DotInteraction()([*bags, tl.Dense(16, dtype=dtype)(hidden)])
    joined = tl.Concatenate()([pooled, crossed, hidden])
    scaled = tl.PReLU(dtype=dtype)(tl.Rescaling([0.5] * 31, offset=0.25)(x))
    outputs = [
        rows,
        tl.Dense(7, "softmax", dtype=dtype)(joined),
        tl.Dense(1, "sigmoid", dtype=dtype)(joined),
        tl.Activation("log_softmax")(hidden),
        tl.Dot(axes=1, normalize=True)(bags),
        tl.Flatten()(x),
        tl.LayerNormalization(dtype=dtype)(tl.Add()([x, scaled])),
        tl.RMSNormalization(dtype=dtype)(rows),
        tl.UnitNormalization()(pooled),
        tl.BatchNormalization(dtype=dtype)(rows),
        tl.Maximum()([tl.Reshape((31, 1))(x), tl.Reshape((1, 31))(scaled)]),
        tl.GlobalMaxPooling1D()(rows),
    ]
    return tl.Model([ids, x], outputs)


def every_input(batch: int, dtype: str = "float32", length: int = 5) -> tuple[Array, Array]:
    ids = 1 + indices(96, batch, length) if length else indices(96, batch, 0)
    return ids, normal(batch, 31, dtype=dtype)


@cache
def sample(dtype: str = "float32", target: str = "native") -> Twin:
    """The model of `every_kernel`, compiled once for all tests."""
    return Twin(every_kernel(dtype), target=target)
