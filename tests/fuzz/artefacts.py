"""Artefacts whose manifest or weights were changed, and every hash made good again.

One that loads must give what the unchanged one gives, for all calls, or refuse with an error of
ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import tvmlayers as tl
from tests.fuzz.mutation import mutated, text_of
from tvmlayers import cli, targets
from tvmlayers.artifact import file as artifact
from tvmlayers.codegen.cuda.compiler import compile_cuda
from tvmlayers.codegen.cuda.toolchain import Images
from tvmlayers.schedule.cuda import CudaSelector

Members = dict[str, bytes]
IDS = np.arange(15).reshape(3, 5) % 9
FLAT, ENDS = np.arange(6), np.array([0, 2, 6])
STEP = "step"  # a training step
CALLS: dict[str, list[dict[str, Any]]] = {
    "classifier": [{"input": IDS}, {"input": IDS.astype(np.int8)}, {"input": IDS + 7}],
    "dense": [{"input": np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)}],
    "bag": [
        {"indices": IDS},
        {"indices": FLAT, "offsets": ENDS},
        {"indices": FLAT, "offsets": ENDS + 1},
        {"indices": IDS, "per_sample_weights": np.ones(IDS.shape, np.float32)},
    ],
    "towers": [{"user": IDS[0], "item": IDS[1]}],
    "gpu": [{"input": IDS}],
    STEP: [{"x": IDS, "y": np.array([2, 0, 1])}, {"x": IDS, "y": np.array([2, 0, 3])}],
}


def prepare(folder: Path) -> None:
    """Write the artefacts that are changed."""
    user, item = tl.Input((), name="user"), tl.Input((), name="item")
    towers = [tl.Dense(4)(tl.Embedding(9, 4, seed=i)(side)) for i, side in enumerate((user, item))]
    classifier = tl.Sequential(
        [
            tl.Embedding(9, 4, input_length=5, seed=1),
            tl.Flatten(),
            tl.Dense(8, "relu"),
            tl.Dense(3, "softmax"),
        ]
    )
    bag = tl.EmbeddingBag(9, 4, mode="sum", include_last_offset=True, seed=1)
    models = {
        "classifier": classifier,
        "dense": tl.Sequential([tl.Dense(5, "gelu", input_dim=6)]),
        "bag": tl.Sequential([bag]),
        "towers": tl.Model([user, item], [tl.Dot(1)(towers), towers[0]]),
    }
    for name, model in models.items():
        tl.compile(model, threads=1, records=False).save(folder / f"{name}.tvml")
    step = tl.compile_step(classifier, "sparse_categorical_crossentropy", "adam", threads=1)
    step.export(folder / f"{STEP}.tvml")
    gpu = targets.resolve("cuda-sm80")
    assert isinstance(gpu, targets.CudaTarget)
    compile_cuda(classifier, CudaSelector(gpu, False), _images).save(folder / "gpu.tvml")


def _images(source: str, kernels: Sequence[Any], target: Any) -> Images:
    """What a compiler for GPUs gives, with code that no GPU here will run."""
    numbers = dict.fromkeys(("registers", "shared", "stack", "spill_stores", "spill_loads"), 1)
    resources = {kernel.name: numbers for kernel in kernels}
    return Images({"cubin": source.encode(), "ptx": b"ptx"}, "none", resources)


class Artefacts:
    """Changes artefacts of the folder and tries them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "changed.tvml"
        self.members = {name: read_members(folder / f"{name}.tvml") for name in CALLS}
        self.expected = {
            name: _results(_load(folder / f"{name}.tvml", name), name) for name in CALLS
        }

    def change(self, rng: Random) -> str:
        """Write a changed artefact; says what was changed."""
        self.name = rng.choice(list(CALLS))
        kind = rng.choice(("manifest",) * 8 + ("header", "bytes"))
        members = dict(self.members[self.name])
        if kind == "bytes":
            content = bytearray((self.folder / f"{self.name}.tvml").read_bytes())
            for _ in range(rng.choice((1, 2, 8))):
                content[rng.randrange(len(content))] = rng.randrange(256)
            cut = rng.choice((len(content), rng.randrange(len(content))))
            self.path.write_bytes(content[:cut])
            return f"{self.name}: bytes"
        if kind == "header":
            header, data = split(members[artifact.WEIGHTS])
            changed, told = mutated(header, rng)
            members[artifact.WEIGHTS] = joined(text_of(changed), data[: rng.choice((None, 1, -1))])
        else:
            changed, told = mutated(json.loads(members[artifact.MANIFEST]), rng)
            members[artifact.MANIFEST] = text_of(changed).encode()
        forge(self.path, members)
        return f"{self.name}, {kind}: {told}"

    def use(self) -> None:
        """All that one does with an artefact; TvmLayersError where it is refused."""
        name, path = self.name, self.path
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            assert cli.main(["inspect", str(path)]) in (0, 2)
            assert cli.main(["inspect", "--json", str(path)]) in (0, 2)
        assert "\x1b" not in quiet.getvalue(), "an escape reaches the terminal"
        loaded, again = _load(path, name), path.with_name("again.tvml")
        if name == STEP:
            repr(loaded), loaded.weights(), loaded.state(), loaded.iterations
            save = loaded.export
        else:
            repr(loaded), loaded.report(), loaded.target, loaded.inputs, loaded.outputs
            save = loaded.save
        for model in (loaded, None):
            if model is None:
                save(again)
                model = _load(again, name)
            for found, expected in zip(_results(model, name), self.expected[name], strict=True):
                if found is not None and expected is not None:
                    for one, other in zip(found, expected, strict=True):
                        np.testing.assert_array_equal(one, other)


def _load(path: Path, name: str) -> Any:
    return tl.load_step(path) if name == STEP else tl.load(path)


def _results(model: Any, name: str) -> list[list[Any] | None]:
    """The results of each call, None where an error of ours came, by position as by name.

    Of a step, the loss of its first call: later ones follow the optimiser, which may be changed.
    """
    results: list[list[Any] | None] = []
    if name == STEP:
        if model.iterations:  # one that was exported after its first call
            return [None]
        for call in CALLS[name]:
            with contextlib.suppress(tl.TvmLayersError):
                results.append([model(**call)])
                model.predictions()
        return results[:1]
    for call in CALLS[name]:
        try:
            given = model(**call)
        except tl.TvmLayersError:
            results.append(None)
        else:
            results.append(given if isinstance(given, list) else [given])
        with contextlib.suppress(tl.TvmLayersError):
            model(*call.values())
    return results


def read_members(path: Path) -> Members:
    """The members of an artefact by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def forge(path: Path, members: Members) -> None:
    """Write an artefact of these members, the hashes in and of the manifest made good."""
    with contextlib.suppress(ValueError, RecursionError):
        manifest = json.loads(members[artifact.MANIFEST])
        hashes = manifest["hashes"] if isinstance(manifest, dict) and "hashes" in manifest else None
        if isinstance(hashes, dict) and _hash(members[artifact.WEIGHTS]) != hashes.get("weights"):
            hashes["weights"] = _hash(members[artifact.WEIGHTS])
            members = {**members, artifact.MANIFEST: json.dumps(manifest).encode()}
    line = f"{_hash(members[artifact.MANIFEST])}  {artifact.MANIFEST}\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, artifact.MANIFEST_HASH: line.encode()}.items():
            archive.writestr(name, content)


def split(weights: bytes) -> tuple[Any, bytes]:
    """(header, data) of a safetensors file."""
    (length,) = struct.unpack("<Q", weights[:8])
    return json.loads(weights[8 : 8 + length]), weights[8 + length :]


def joined(header: str, data: bytes) -> bytes:
    """The safetensors file of a header's text and data."""
    text = header.encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
