"""A plugin of pytest: what tests compile for this machine is compiled for ARM, and runs there.

`ON_BOARD=neoverse-n1 python -m pytest -p on_board tests/parity/...` with tests/arm on the path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from board import Board
from machine import find

import tvmlayers as tl


@pytest.fixture(scope="session", autouse=True)
def on_board() -> Iterator[None]:
    machine = find()
    assert machine is not None, "make arm sets the machine up"
    board = Board(machine, os.environ["ON_BOARD"])
    compile_here = tl.compile

    def compile_there(model: Any, target: object = "native", *more: Any, **named: Any) -> Any:
        target = board.target if target == "native" else target
        return board.put(compile_here(model, target, *more, **named))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tl, "compile", compile_there)
        yield
    board.close()
