"""One machine compiles for all three families of hardware: no ARM board and no GPU is needed.

`python examples/six_targets.py [FOLDER]` compiles a classifier over fixed-length ids and a text
classifier for six targets, saves the artefacts and has `tvmlayers inspect` describe each. Without a
FOLDER they go to a temporary one, which is gone afterwards. It needs the extras `cross` and `cuda`,
or an ARM linker and nvcc.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import tvmlayers as tl
from tvmlayers.cli import main as tvmlayers

TARGETS = ("x86-64-v3", "sapphirerapids", "armv8-a", "neoverse-n1", "cuda-sm80", "cuda-sm90")


def ids_classifier() -> tl.Sequential:
    """10 ids out of 5000 -> 10 probabilities."""
    return tl.Sequential(
        [
            tl.Embedding(5000, 64, input_length=10),
            tl.Flatten(),
            tl.Dense(128, activation="relu"),
            tl.Dense(10, activation="softmax"),
        ],
        name="ids",
    )


def text_classifier() -> tl.Sequential:
    """Any number of word ids out of 5000 -> 10 probabilities."""
    return tl.Sequential(
        [tl.EmbeddingBag(5000, 64, mode="mean"), tl.Dense(10, activation="softmax")], name="text"
    )


def compile_all(folder: Path) -> list[Path]:
    """The artefacts of both models for all targets, written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for model in (ids_classifier(), text_classifier()):
        for target in TARGETS:
            made.append(folder / f"{model.name}-{target}.tvml")
            tl.compile(model, target=target).save(made[-1])
    return made


def main(argv: list[str]) -> int:
    """0 where every artefact was written and described."""
    if not argv:
        with tempfile.TemporaryDirectory(prefix="six-targets-") as folder:
            return main([folder])
    return max(tvmlayers(["inspect", str(path)]) for path in compile_all(Path(argv[0])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
