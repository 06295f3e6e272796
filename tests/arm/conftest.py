"""The emulated ARM machine; tests that need it are skipped where it was not set up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# What these tests share with those of the parity and the tuning.
sys.path += [str(TESTS / name) for name in ("parity", "tune", "arm")]

from board import Board  # noqa: E402 - found on the path above
from machine import EMULATED, Machine, find  # noqa: E402 - found on the path above


@pytest.fixture(scope="session")
def machine() -> Machine:
    found = find()
    if found is None:
        pytest.skip("no emulated ARM machine: `make arm` sets one up")
    return found


@pytest.fixture(scope="session")
def boards(machine: Machine) -> Iterator[dict[str, Board]]:
    """A board for each target, started at its first use."""

    class Boards(dict[str, Board]):
        def __missing__(self, target: str) -> Board:
            assert target in EMULATED
            self[target] = Board(machine, target)
            return self[target]

    made = Boards()
    yield made
    for board in made.values():
        board.close()
