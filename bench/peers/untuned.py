"""Our own layers with no tuned schedules: what the analytic choice costs beside the records."""

from __future__ import annotations

from dataclasses import replace

import tvmlayers as tl
from bench import ours
from bench.settings import Settings
from bench.timing import Side
from bench.work import Work

NAME = "untuned"

_settings: list[Settings] = []  # of the run, once it has any


def version() -> str:
    return tl.__version__


def set_up(settings: Settings) -> None:
    _settings[:] = [replace(settings, records=False)]


def prepare(work: Work) -> list[Side]:
    """Buffers bound, as those of the tuned layers are."""
    (settings,) = _settings
    return [replace(ours.prepare(work, settings).bound, name=NAME)]


SIDES = dict.fromkeys(("dense", "embedding", "bag", "model"), prepare)
