"""Paragraphs from the documentation of installed packages, labelled by the package.

The text is real, and it is on every machine that can run the demonstration: the docstrings of the
libraries that PyTorch and scikit-learn bring along. They are read from the source files by
``ast``; nothing is imported and nothing is downloaded.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tvmlayers.errors import MissingDependencyError

PACKAGES = ("networkx", "sklearn", "sympy", "torch")
# Words that say the answer would make the task trivial: they are taken out of the text.
GIVEAWAYS = frozenset(
    ("networkx", "nx", "numpy", "np", "scipy", "scikit", "sklearn", "sympy", "torch", "pytorch")
)

PADDING_ID = 0
UNKNOWN_ID = 1
PARAGRAPH_WORDS = 64
SHORTEST_PARAGRAPH = 12

_WORD = re.compile(r"[a-z]{2,}")
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_NOT_PROSE = (">>>", "---", "===", "::", "http", ".. ")
_HELD_OUT_BELOW = 64  # of the 256 values of a hash's first byte: a quarter of the files

Words = tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """Paragraphs as word ids, and which of PACKAGES each one comes from.

    ids: (paragraphs, PARAGRAPH_WORDS) int64, padded with PADDING_ID; labels: (paragraphs,) int64.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]


def load_corpus(train_size: int, held_out_size: int, vocabulary: int) -> tuple[Split, Split]:
    """The training split and the held-out split, balanced over PACKAGES.

    train_size, held_out_size: paragraphs wanted in all; every package gives as many as the one
    that has the fewest. A source file gives its text to one split only, so held-out paragraphs
    come from files that were never trained on. vocabulary: ids in all, the two special ones too;
    words are numbered by how often they occur in the training split.
    """
    wanted = (train_size // len(PACKAGES), held_out_size // len(PACKAGES))
    seen: set[Words] = set()
    collected = [_collect(package, wanted, seen) for package in PACKAGES]
    train = _balance([sides[0] for sides in collected])
    held_out = _balance([sides[1] for sides in collected])
    numbers = _number_words(train, vocabulary)
    return _encode(train, numbers), _encode(held_out, numbers)


def tokenize(text: str) -> Words:
    """The first PARAGRAPH_WORDS words of a text, in lower case, giveaways left out."""
    words = (word for word in _WORD.findall(text.lower()) if word not in GIVEAWAYS)
    return tuple(word for word, _ in zip(words, range(PARAGRAPH_WORDS), strict=False))


def _collect(
    package: str, wanted: tuple[int, int], seen: set[Words]
) -> tuple[list[Words], list[Words]]:
    """Training and held-out paragraphs of one package, none that is in `seen` already."""
    sides: tuple[list[Words], list[Words]] = ([], [])
    for is_held_out, words in _paragraphs(package):
        side = sides[is_held_out]
        if words in seen or len(side) == wanted[is_held_out]:
            continue
        seen.add(words)
        side.append(words)
        if all(len(side) == size for side, size in zip(sides, wanted, strict=True)):
            break
    return sides


def _paragraphs(package: str) -> Iterator[tuple[bool, Words]]:
    """(is held out, words) for each paragraph, files in the order of their hashed names."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"the demonstration reads the documentation of {package}, which is not installed: "
            "pip install 'tvmlayers[demo]'"
        )
    root = Path(spec.submodule_search_locations[0])
    # A hash scatters the subpackages, so that the files read first are a sample of the package.
    files = {
        hashlib.sha256(path.relative_to(root).as_posix().encode()).digest(): path
        for path in root.rglob("*.py")
        if not any("test" in part for part in path.relative_to(root).parts)
    }
    for digest, path in sorted(files.items()):
        for docstring in _docstrings(path):
            for paragraph in _PARAGRAPH_END.split(docstring):
                if any(mark in paragraph for mark in _NOT_PROSE):
                    continue
                words = tokenize(paragraph)
                if len(words) >= SHORTEST_PARAGRAPH:
                    yield digest[0] < _HELD_OUT_BELOW, words


def _docstrings(path: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of the code around the text
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:  # a template, or made for a newer Python: it holds no text for us
            return
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield ast.get_docstring(node) or ""
        if isinstance(node, (ast.Module, ast.ClassDef)):
            nodes.extend(node.body)


def _balance(by_package: list[list[Words]]) -> list[tuple[Words, int]]:
    """(words, label), as many of each package."""
    size = min(map(len, by_package))
    return [(words, label) for label, side in enumerate(by_package) for words in side[:size]]


def _number_words(paragraphs: Iterable[tuple[Words, int]], vocabulary: int) -> dict[str, int]:
    counts = Counter(word for words, _ in paragraphs for word in words)
    # By count, then by the word itself: equal counts must not depend on the order of reading.
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    first = UNKNOWN_ID + 1
    return {word: number for number, word in enumerate(ranked[: vocabulary - first], start=first)}


def _encode(paragraphs: list[tuple[Words, int]], numbers: dict[str, int]) -> Split:
    ids = np.full((len(paragraphs), PARAGRAPH_WORDS), PADDING_ID, dtype=np.int64)
    for row, (words, _) in zip(ids, paragraphs, strict=True):
        row[: len(words)] = [numbers.get(word, UNKNOWN_ID) for word in words]
    return Split(ids, np.array([label for _, label in paragraphs], dtype=np.int64))
