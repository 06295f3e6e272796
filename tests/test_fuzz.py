"""A small part of `python -m tests.fuzz`, always the same cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.batches import KINDS, run


@pytest.mark.parametrize("kind", KINDS)
def test_changed_files_are_refused_or_work(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(kind, tmp_path, seed=1, cases=range(40)) == 0, capfd.readouterr().out
