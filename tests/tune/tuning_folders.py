"""Where one test's runs write, and what they wrote there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Folders:
    """Where one test's runs write."""

    work: Path
    records: Path

    @property
    def named(self) -> dict[str, Path]:
        """As `tune` takes them."""
        return {"work_dir": self.work, "records": self.records}

    def trials(self) -> list[dict[str, Any]]:
        """The lines of all journals."""
        paths = sorted(self.work.rglob("*.jsonl"))
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]
