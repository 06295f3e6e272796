"""Few rows on SVE's vectors: right results on cores with vectors of 256 bits and with others."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
from agreement import Twin, normal
from board import Board
from machine import SHORT_VECTORS, Machine

import tvmlayers as tl
from tvmlayers.codegen.cpu.sve_tile import TileText

pytestmark = pytest.mark.arm

TARGET = "neoverse-v1"
# Whole quads of k or not, panels that are full or not.
SHAPES = [(1, 16), (3, 16), (4, 17), (5, 32), (64, 48), (67, 40), (126, 100)]


@pytest.fixture(scope="module", params=["256 bits", "128 bits"])
def board(request: pytest.FixtureRequest, machine: Machine) -> Iterator[Board]:
    made = Board(machine, TARGET, SHORT_VECTORS if request.param == "128 bits" else None)
    assert request.param == f"{made.ask('describe')['vector_bits']} bits"
    yield made
    made.close()


@cache
def dense(k: int, n: int, dtype: str, use_bias: bool = True) -> Twin:
    layer = tl.Dense(n, "gelu", use_bias=use_bias, input_dim=k, dtype=dtype)
    return Twin(layer, target=TARGET)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("k", "n"), SHAPES)
def test_few_rows_agree_whatever_the_length_of_vectors(
    k: int, n: int, dtype: str, board: Board
) -> None:
    twin = dense(k, n, dtype)
    assert twin.compiled.report()[0]["regimes"][0]["decisions"]["tile"] == "sve:1x4"
    there = board.put(twin.compiled)
    for batch in (1, 2, 3, 4, 7):
        x = normal(batch, k, dtype=dtype)
        twin.compare(there(x), twin.reference(x))


def test_two_layers_of_the_same_tile_and_one_without_bias_agree(board: Board) -> None:
    layers = [tl.Dense(32, "relu", input_dim=24), tl.Dense(32, use_bias=False), tl.Dense(16)]
    twin = Twin(tl.Sequential(layers), target=TARGET)
    there = board.put(twin.compiled)
    for batch in (1, 2, 3):
        x = normal(batch, 24)
        twin.compare(there(x), twin.reference(x))


def test_a_wrong_tile_is_found_where_vectors_are_long_and_does_not_run_elsewhere(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = TileText.text
    monkeypatch.setattr(
        TileText, "text", lambda self: right(self).replace(", i32 2)", ", i32 1)", 1)
    )
    twin = Twin(tl.Dense(32, input_dim=24), target=TARGET)
    x = normal(1, 24)
    given, wanted = board.put(twin.compiled)(x), twin.reference(x)
    if board.ask("describe")["vector_bits"] == 256:
        with pytest.raises(AssertionError, match="times the tolerance"):
            twin.compare(given, wanted)
    else:
        twin.compare(given, wanted)
