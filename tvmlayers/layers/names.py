"""Names of layers and inputs: Keras's style, unique within a model."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from typing import Protocol

from tvmlayers.errors import ConfigError

naming = threading.RLock()
"""Held by who gives the parts of a model their names, and by who relies on these: a part that
several models share is called as the one says that did so last."""


class Named(Protocol):
    """What has a name in a model: a layer or an input."""

    name: str
    stem: str
    auto_named: bool


def snake_case(name: str) -> str:
    """EmbeddingBag as embedding_bag, RMSNormalization as rms_normalization, as Keras has it."""
    return re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", name).lower()


def checked_name(name: object) -> str:
    """name, which must be a word that "<layer>/<weight>" can contain."""
    if not isinstance(name, str) or not name or "/" in name:
        raise ConfigError(f'a name is a non-empty string without "/", got {name!r}')
    return name


def unique_names(named: Iterable[Named]) -> None:
    """Give each object without a name of its user's a free one: dense, dense_1, ..."""
    things = list(named)
    taken: set[str] = set()
    for thing in things:
        if not thing.auto_named:
            if thing.name in taken:
                raise ConfigError(f"two layers or inputs are named {thing.name!r}; rename one")
            taken.add(thing.name)
    for thing in things:
        if thing.auto_named:
            thing.name = free_name(thing.stem, taken)
            taken.add(thing.name)


def free_name(stem: str, taken: set[str]) -> str:
    """stem, or stem_1, stem_2, ... when that is taken."""
    name, number = stem, 0
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    return name
