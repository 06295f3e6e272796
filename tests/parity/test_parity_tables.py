"""Tables in fewer bits give what PyTorch makes of the numbers that they stand for."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
from agreement import Twin, indices, needs, normal, on_cpu

import tvmlayers as tl
from tvmlayers.quantization import KINDS

torch = pytest.importorskip("torch")
pytestmark = on_cpu

ROWS = 61
# All modes of the kind whose rows are of another form; of halves one sum and one comparison.
BAGS = [*product(("int8",), ("sum", "mean", "max", "min")), *product(KINDS[:2], ("mean", "max"))]


def table(width: int, seed: int = 7) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((ROWS, width)).astype(np.float32)
    made[5], made[9] = 0, 2.5
    made[11, 0] = 1e4
    return made


@cache
def bag(kind: str, mode: str, target: str = "native", width: int = 36, oob: str = "raise") -> Twin:
    layer = tl.EmbeddingBag(ROWS, width, mode=mode, padding_idx=30, oob=oob, weights=table(width))
    return Twin(tl.quantize(layer, tables=kind), seed=None, target=target)


@pytest.mark.parametrize(("kind", "mode"), BAGS)
def test_bags_agree_in_every_form_of_call(kind: str, mode: str) -> None:
    twin = bag(kind, mode)
    ids = indices(ROWS, 40, 9)
    ids[::2, 3] = 30
    ids[3] = 30
    twin.agrees(ids)
    twin.agrees(ids[:1, :0])
    offsets = np.array([0, 0, 5, 17, 17, 200, 360])
    twin.agrees(ids.reshape(-1), offsets=offsets)
    if mode in ("sum", "mean"):
        twin.agrees(ids, per_sample_weights=normal(40, 9))
        weights = normal(360)
        twin.agrees(ids.reshape(-1), offsets=offsets, per_sample_weights=weights)


@pytest.mark.parametrize("width", [1, 3, 64, 768])
@pytest.mark.parametrize("kind", KINDS)
def test_bags_and_rows_of_any_width_agree(kind: str, width: int) -> None:
    if kind == "int4" and width % 2:
        pytest.skip("two columns share a byte")
    ids = indices(ROWS, 9, 5)
    rows = tl.Embedding(ROWS, width, weights=table(width))
    Twin(tl.quantize(rows, tables=kind), seed=None).agrees(ids)
    bag(kind, "mean", width=width).agrees(ids)


@pytest.mark.parametrize("target", [needs("x86-64-v3"), needs("x86-64-v4")])
@pytest.mark.parametrize("kind", KINDS)
def test_bags_agree_on_other_targets(kind: str, target: str) -> None:
    bag(kind, "sum", target).agrees(indices(ROWS, 40, 9))


@pytest.mark.parametrize("oob", ["clip", "zero"])
@pytest.mark.parametrize("kind", KINDS)
def test_indices_outside_follow_the_policy(kind: str, oob: str) -> None:
    ids = indices(ROWS, 9, 5)
    ids[::2, 1], ids[1::2, 2], ids[0, 0] = -1, ROWS, 1 << 40
    rows = tl.Embedding(ROWS, 18, oob=oob, weights=table(18))
    Twin(tl.quantize(rows, tables=kind), seed=None).agrees(ids)
    bag(kind, "mean", oob=oob).agrees(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_outside_is_an_error(kind: str) -> None:
    with pytest.raises(tl.IndexOutOfRangeError, match="61"):
        bag(kind, "mean").compiled(np.array([[1, ROWS]]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_past_the_caches_agrees(kind: str) -> None:
    rows = tl.Embedding(ROWS, 64, weights=table(64))
    Twin(tl.quantize(rows, tables=kind), seed=None).agrees(indices(ROWS, 17000, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pooled_lookup_with_a_mask_agrees(kind: str) -> None:
    model = tl.Sequential(
        [
            tl.Embedding(ROWS, 24, mask_zero=True, weights=table(24)),
            tl.GlobalAveragePooling1D(),
            tl.Dense(5, "relu"),
        ]
    )
    twin = Twin(tl.quantize(model, tables=kind), seed=None)
    ids = indices(ROWS, 33, 9)
    ids[:, 0] = 1
    ids[:, 4:6] = 0
    twin.agrees(ids)
