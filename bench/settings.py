"""What the sides of a run have in common."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What a case is compiled for, and the threads of every side."""

    target: str
    threads: int
    dtype: str = "float32"
    index_dtype: str = "int64"
    records: bool = True  # tuned schedules are used where there are some
