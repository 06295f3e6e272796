"""The memory of training: each side runs in a process of its own, and one that fails is named."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from bench import train_memory
from bench.train_cases import parse

pytest.importorskip("torch")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts a process's memory")
def test_what_a_side_takes_is_counted_alone_in_a_process() -> None:
    told = io.StringIO()
    names = ["ours", "none of these"]
    rows = train_memory.measured([parse("text@2:sgd")], names, 1, Console(file=told))
    (row,) = rows
    assert (row.case, row.side) == ("text@2:sgd", "ours")
    assert 0 < row.held <= row.peak
    assert "none of these is left out" in told.getvalue()
    assert train_memory.table(rows, 1).row_count == 1
