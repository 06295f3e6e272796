"""Models that together have every layer and every option, for the tests of what writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import tvmlayers as tl
from tvmlayers.layers.activations import NAMES
from tvmlayers.testing import Reference, Rounding, compare

ROWS, LENGTH, WIDTH = 20, 5, 6


def filled(inputs: Any, outputs: Any, seed: int = 0) -> tl.Model:
    """A model with random weights; those of variances and gains are positive."""
    model = tl.Model(inputs, outputs, name="made")
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        positive = layer.kind in ("BatchNormalization", "PReLU")
        layer.set_weights(
            [rng.uniform(0.2 if positive else -1.2, 1.2, w.shape) for w in layer.get_weights()]
        )
    return model


def words(dtype: str = "int64", length: int | None = LENGTH, name: str | None = None) -> Any:
    return tl.Input((length,), dtype=dtype, name=name)


def numbers(*shape: int | None, dtype: str = "float32", name: str | None = None) -> Any:
    return tl.Input(shape, dtype=dtype, name=name)


def activations(dtype: str) -> tl.Model:
    x = numbers(WIDTH, dtype=dtype)
    ends = [tl.Activation(name)(x) for name in NAMES if name != "linear"]
    ends += [tl.LeakyReLU(0.3)(x), tl.ELU(0.7)(x), tl.Dense(3, "relu", dtype=dtype)(x)]
    return filled(x, ends)


def dense(dtype: str) -> tl.Model:
    """A tower that is used twice, with and without a bias, on vectors and on sequences."""
    x, y, steps = (numbers(*s, dtype=dtype) for s in ((WIDTH,), (WIDTH,), (None, WIDTH)))
    tower = tl.Dense(WIDTH, "gelu", dtype=dtype, name="towers.first")
    plain = tl.Dense(4, use_bias=False, dtype=dtype, name="head")
    ends = [plain(tower(x)), plain(tl.Dropout(0.3)(tower(y))), tower(steps)]
    return filled([x, y, steps], ends)


def embeddings(dtype: str) -> tl.Model:
    ids, few = words(name="ids"), tl.Input((), dtype="int32", name="few")
    small = words("int8", None, "small")
    table = tl.Embedding(ROWS, 4, padding_idx=2, dtype=dtype, name="table")
    clipped = tl.Embedding(ROWS, 4, oob="clip", dtype=dtype, name="clipped")(ids)
    ends = [table(ids), table(few), tl.Flatten()(clipped), table(small)]
    return filled([ids, few, small], ends)


def masked_text(dtype: str) -> tl.Model:
    """A mask that goes through a Dense, and one that averages rows at once."""
    ids, other = words(), words()
    table = tl.Embedding(ROWS, 4, mask_zero=True, dtype=dtype)
    pooled = tl.GlobalAveragePooling1D()(tl.Dense(3, "tanh", dtype=dtype)(table(ids)))
    return filled([ids, other], [pooled, tl.GlobalAveragePooling1D()(table(other))])


def bags(dtype: str, modes: tuple[str, ...] = ("mean", "sum", "max", "min")) -> tl.Model:
    ids = words()
    ends = [tl.EmbeddingBag(ROWS, 3, mode=mode, dtype=dtype)(ids) for mode in modes]
    return filled(ids, ends)


def padded_bags(dtype: str, modes: tuple[str, ...] = ("mean", "sum", "max")) -> tl.Model:
    ids = words("int32")
    ends = [tl.EmbeddingBag(ROWS, 3, mode=m, padding_idx=4, dtype=dtype)(ids) for m in modes]
    return filled(ids, ends)


def weighted_bags(dtype: str) -> tl.Model:
    ids, factors = words(), numbers(LENGTH, dtype=dtype, name="factors")
    ends = [
        tl.EmbeddingBag(ROWS, 3, mode=mode, dtype=dtype)(ids, per_sample_weights=factors)
        for mode in ("sum", "mean")
    ]
    return filled([ids, factors], ends)


def ragged_bags(dtype: str, has_last: bool = False) -> tl.Model:
    ids = tl.Input((None,), dtype="int64", batch=False, name="ids")
    offsets = tl.Input((), dtype="int64", name="offsets")
    factors = tl.Input((None,), dtype=dtype, batch=False, name="factors")

    def make(mode: str) -> Any:
        return tl.EmbeddingBag(ROWS, 3, mode=mode, include_last_offset=has_last, dtype=dtype)

    ends = [make(mode)(ids, offsets) for mode in ("mean", "max")]
    ends.append(make("sum")(ids, offsets, factors))
    return filled([ids, offsets, factors], ends)


def shapes(dtype: str) -> tl.Model:
    x = numbers(2, 6, dtype=dtype)
    y = tl.Input((), dtype=dtype)
    ends = [
        tl.Reshape((3, 4))(x),
        tl.Reshape((4, -1))(x),
        tl.Concatenate(1)([tl.Reshape((12,))(x), tl.Flatten()(x), tl.Flatten()(y)]),
        tl.Concatenate()([x, x, x]),
        tl.GlobalMaxPooling1D()(x),
        tl.GlobalAveragePooling1D()(x),
    ]
    return filled([x, y], ends)


def dots(dtype: str) -> tl.Model:
    """Every pair of ranks and axes, plain and normalised."""
    u, v = numbers(4, dtype=dtype), numbers(4, dtype=dtype)
    a, b = numbers(3, 4, dtype=dtype), numbers(4, 5, dtype=dtype)
    ends = [
        dot
        for normalize in (False, True)
        for dot in (
            tl.Dot(1, normalize)([u, v]),
            tl.Dot((2, 1), normalize)([a, b]),
            tl.Dot(2, normalize)([a, a]),
            tl.Dot((1, 2), normalize)([b, a]),
            tl.Dot((1, 2), normalize)([u, a]),
            tl.Dot((1, 1), normalize)([b, v]),
        )
    ]
    return filled([u, v, a, b], ends)


def interaction(dtype: str) -> tl.Model:
    x, y = numbers(4, 3, dtype=dtype), numbers(2, 3, dtype=dtype)
    return filled([x, y], [tl.DotInteraction()(x), tl.DotInteraction()(y)])


def merges(dtype: str) -> tl.Model:
    x, y = numbers(3, 4, dtype=dtype), numbers(3, 4, dtype=dtype)
    low, one = numbers(4, dtype=dtype), numbers(3, 1, dtype=dtype)
    kinds = (tl.Add, tl.Average, tl.Multiply, tl.Maximum, tl.Minimum)
    ends = [kind()([x, low, y, one]) for kind in kinds] + [tl.Subtract()([x, y])]
    ends.append(tl.Subtract()([low, x]))
    return filled([x, y, low, one], ends)


def rescalings(dtype: str) -> tl.Model:
    x = numbers(3, 4, dtype=dtype)
    row, grid = np.arange(4) / 8, np.arange(12).reshape(3, 4) / 4
    pairs = [(0.5, 0.0), (1.0, 2.0), (0.1, -0.3), (row, 1.5), (2.0, grid), (row, grid)]
    return filled(x, [tl.Rescaling(scale, offset)(x) for scale, offset in pairs])


def normalizations(dtype: str, last: bool = False) -> tl.Model:
    """last: over the last axis and with both weights only."""
    x, flat = numbers(4, 6, dtype=dtype), numbers(6, dtype=dtype)
    ends = [
        tl.LayerNormalization(dtype=dtype)(x),
        tl.LayerNormalization(epsilon=0.01, dtype=dtype)(flat),
        tl.RMSNormalization(dtype=dtype)(x),
        tl.UnitNormalization()(x),
        tl.BatchNormalization(dtype=dtype)(flat),
        tl.BatchNormalization(dtype=dtype)(x),
        tl.BatchNormalization(1, 0.9, 0.1, dtype=dtype)(x),
    ]
    if not last:
        ends += [
            tl.LayerNormalization((-2, -1), dtype=dtype)(x),
            tl.LayerNormalization(center=False, dtype=dtype)(x),
            tl.LayerNormalization(scale=False, dtype=dtype)(x),
            tl.LayerNormalization(center=False, scale=False, dtype=dtype)(flat),
            tl.RMSNormalization((-2, -1), 0.1, dtype=dtype)(x),
            tl.UnitNormalization((-2, -1), 1e-24)(x),
            tl.BatchNormalization(center=False, dtype=dtype)(flat),
            tl.BatchNormalization(scale=False, dtype=dtype)(flat),
        ]
    return filled([x, flat], ends)


def slopes(dtype: str) -> tl.Model:
    x, flat, free = (numbers(*s, dtype=dtype) for s in ((3, 4), (6,), (None, 4)))
    ends = [
        tl.PReLU(dtype=dtype)(flat),
        tl.PReLU(shared_axes=[1], dtype=dtype)(flat),
        tl.PReLU(dtype=dtype)(x),
        tl.PReLU(shared_axes=[2], dtype=dtype)(x),
        tl.PReLU(shared_axes=[1], dtype=dtype)(free),
        tl.PReLU(shared_axes=[1, 2], dtype=dtype)(free),
    ]
    return filled([x, flat, free], ends)


MODELS: dict[str, Callable[[str], tl.Model]] = {
    made.__name__: made
    for made in (
        *(activations, bags, dense, dots, embeddings, interaction, masked_text, merges),
        *(normalizations, padded_bags, ragged_bags, rescalings, shapes, slopes, weighted_bags),
    )
}
"""By name; each takes the dtype of its layers."""


def samples(model: tl.Model, batch: int = 7, seed: int = 1) -> tuple[Any, ...]:
    """Random inputs of a model; flat indices are of bags of one, two and three."""
    rng = np.random.default_rng(seed)
    made = []
    for tensor in model.inputs:
        flat = tensor.axes[0] is not model.outputs[0].axes[0]
        shape = (3 * batch,) if flat else (batch, *(size or LENGTH for size in tensor.shape[1:]))
        if tensor.name == "offsets":
            made.append(np.sort(rng.integers(0, 3 * batch, batch)) * (np.arange(batch) > 0))
        elif tensor.dtype.startswith("float"):
            made.append(rng.normal(size=shape).astype(tensor.dtype))
        else:
            made.append(rng.integers(0, ROWS, shape).astype(tensor.dtype))
    return tuple(made)


def agree(model: tl.Model, results: Any, inputs: tuple[Any, ...], share: float = 1.0) -> None:
    """AssertionError unless results are what our reference has for the model, but for rounding.

    share: of what rounding may amount to.
    """
    wanted = Reference(model)(*inputs)
    listed = list(results) if isinstance(results, list | tuple) else [results]
    assert len(listed) == len(wanted)
    for result, want, output in zip(listed, wanted, model.outputs, strict=True):
        got, what = np.asarray(result), f"{output.name} of {output.node}"
        assert got.shape == tuple(want.value.shape), what
        assert got.dtype.name == output.dtype, what
        # PyTorch's own functions, in tails, and its sums are off by roundings of 1
        slack = 64 * float(np.finfo(output.dtype).eps) * max(1.0, float(np.abs(got).max(initial=0)))
        found = compare(
            got, replace(want, bound=share * want.bound + slack), Rounding.of(output.dtype)
        )
        assert found.is_rounding, f"{what}: {found}"


def expected(model: tl.Model, inputs: tuple[Any, ...]) -> list[Any]:
    """What our reference has for the model, rounded to the dtype of each output."""
    wanted = Reference(model)(*inputs)
    return [w.value.numpy().astype(o.dtype) for w, o in zip(wanted, model.outputs, strict=True)]


def weights_of(model: tl.Model) -> dict[str, bytes]:
    """The weights by name, bit by bit; a table's form has no name of its own."""
    return {
        name: b"%s %s" % (str(weight.shape).encode(), weight.tobytes())
        for name, weight in sorted(model.weights.items())
    }
