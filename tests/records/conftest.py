"""Folders of records that belong to one test alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvmlayers.records import folders, lookup


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, not there yet."""
    monkeypatch.setenv(folders.VARIABLE, str(tmp_path / "user"))
    return tmp_path / "user"


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped records, none yet."""
    monkeypatch.setattr(lookup, "shipped_folder", lambda: tmp_path / "shipped")
    return tmp_path / "shipped"
