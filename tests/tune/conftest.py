"""Folders of one test alone, and workers that only pretend to measure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tuning_folders import HERE, Folders

from tvmlayers.tune import worker


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Not there yet."""
    return Folders(tmp_path / "work", tmp_path / "records")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes workers use a class of `fake_sessions`."""

    def use(name: str) -> None:
        monkeypatch.setenv("PYTHONPATH", str(HERE))
        monkeypatch.setenv(worker.HOOK, f"fake_sessions:{name}")

    return use
