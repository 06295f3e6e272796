"""What a manifest may say; every hash is good, so that only its fields can be wrong."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl
from tests.fuzz.artefacts import forge, read_members
from tvmlayers.artifact import file as artifact

IDS = np.arange(12).reshape(4, 3) % 5


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact of a table and two dense layers, the second one as wide as the first."""
    dense = [tl.Dense(6, "relu"), tl.Dense(6)]
    model = tl.Sequential([tl.Embedding(5, 2, input_length=3), tl.Flatten(), *dense])
    path = tmp_path_factory.mktemp("saved") / "model.tvml"
    tl.compile(model, threads=1, records=False).save(path)
    return path


def edited(saved: Path, path: Path, edit: Callable[[Any], object]) -> Path:
    """A copy of the artefact with its manifest edited and hashed again."""
    members = read_members(saved)
    manifest = json.loads(members[artifact.MANIFEST])
    edit(manifest)
    forge(path, {**members, artifact.MANIFEST: json.dumps(manifest).encode()})
    return path


def test_an_edit_that_means_nothing_loads(saved: Path, tmp_path: Path) -> None:
    path = edited(saved, tmp_path / "m", lambda manifest: manifest.update(created="yesterday"))
    np.testing.assert_array_equal(tl.load(path)(IDS), tl.load(saved)(IDS))


def test_an_edit_without_its_hash_is_damage(saved: Path, tmp_path: Path) -> None:
    members = read_members(saved)
    text = members[artifact.MANIFEST]
    manifest = json.loads(text)
    manifest["created"] = "yesterday"
    path = tmp_path / "m"
    forge(path, {**members, artifact.MANIFEST: json.dumps(manifest).encode()})
    changed = read_members(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**changed, artifact.MANIFEST: text}.items():
            archive.writestr(name, content)
    for read in (tl.load, artifact.read_manifest):
        with pytest.raises(tl.ArtifactError, match="the manifest has changed"):
            read(path)


@pytest.mark.parametrize(
    ("field", "edit"),
    [
        (r"`\$.arena_bytes`", lambda m: m.update(arena_bytes="many")),
        (r"`\$.entries\[0\].inputs\[0\].shape", lambda m: _slot(m).update(shape=3)),
        (r"`\$.entries\[0\].inputs\[0\].kind`", lambda m: _slot(m).update(kind="indices")),
        (r"`\$.entries\[0\].symbol`", lambda m: m["entries"][0].update(symbol="_library_bin")),
        (r"`\$.entries`", lambda m: m.update(entries=[])),
        (r"`\$.hashes.library`", lambda m: m["hashes"].update(library="0")),
        (r"`\$.checks\[0\].rows`", lambda m: m["checks"][0].update(rows=-1)),
        (r"`\$.checks\[0\].kind`", lambda m: m["checks"][0].update(kind="mask")),
        (r"`\$.model.layers\[0\]`", lambda m: m["model"]["layers"][0].pop("class")),
        (r"`\$.weights\[0\].offset`", lambda m: m["weights"][0].update(offset=1.0)),
        ("colour", lambda m: m.update(colour="red")),
        ("of target", lambda m: m["target"].pop("name")),
        ("of kernels", lambda m: m["kernels"][0].update(regimes=[3])),
        ("required field `tvm_version`", lambda m: m.pop("tvm_version")),
    ],
)
def test_a_wrong_type_is_refused_by_the_name_of_its_field(
    field: str, edit: Callable[[Any], object], saved: Path, tmp_path: Path
) -> None:
    path = edited(saved, tmp_path / "m", edit)
    for read in (tl.load, artifact.read_manifest):
        with pytest.raises(tl.ArtifactError, match=field):
            read(path)


@pytest.mark.parametrize(
    ("reason", "edit"),
    [
        ("weights.1..offset is 0", lambda m: m["weights"][1].update(offset=0)),
        ("weights.0..offset is 128", lambda m: m["weights"][0].update(offset=128)),
        ("weights.1..offset is 192", lambda m: m["weights"][1].update(offset=192)),
        ("arena_bytes is 4611686018427387904", lambda m: m.update(arena_bytes=1 << 62)),
        ("two have the same name", lambda m: m["weights"][2].update(name=m["weights"][0]["name"])),
        ("larger than any memory", lambda m: m["weights"][0].update(shape=[1 << 40, 1 << 40])),
        ("inputs.0..dtype is 'uint64'", lambda m: _slot(m).update(dtype="uint64")),
        ("inputs.0..kind is 'value'", lambda m: _slot(m).update(kind="value")),
        ("no input before it says m", lambda m: _slot(m, "outputs").update(shape=["m", 6])),
        ("no input before it says n", lambda m: _slot(m).update(shape=["n-1", 3])),
        ("checks.0..input is no such input", lambda m: m["checks"][0].update(input=1)),
        ("same symbol", lambda m: m["entries"].append(m["entries"][0])),
        ("a function that the machine code has not", lambda m: m["entries"][0].update(symbol="f")),
        ("the machine code refuses", lambda m: _slot(m).update(shape=["n", 4])),
        ("the machine code refuses", lambda m: _slot(m, "outputs").update(dtype="float64")),
        ("the machine code refuses", lambda m: _slot(m, "outputs").update(shape=["n", 1 << 40])),
        ("the machine code refuses", lambda m: m["entries"][0].update(scratch=False)),
        ("layout does not fit", lambda m: _kernel(m)["layout"].update(k=2**31)),
        ("layout does not fit", lambda m: _kernel(m)["layout"].update(dtype="float64")),
        ("a GPU's", lambda m: m["entries"][0].update(sizes=["n"])),
    ],
)
def test_fields_that_do_not_fit_one_another_are_refused(
    reason: str, edit: Callable[[Any], object], saved: Path, tmp_path: Path
) -> None:
    path = edited(saved, tmp_path / "m", edit)
    with pytest.raises(tl.ArtifactError, match=reason):
        tl.load(path)


def test_weights_that_trade_places_are_refused(saved: Path, tmp_path: Path) -> None:
    def edit(manifest: Any) -> None:
        biases = [each for each in manifest["weights"] if each["name"].endswith("/bias")]
        biases[0]["name"], biases[1]["name"] = biases[1]["name"], biases[0]["name"]

    with pytest.raises(tl.ArtifactError, match="name different tensors"):
        tl.load(edited(saved, tmp_path / "m", edit))


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"\xff", b"NaN", b'{"format": 1e999}', b"[" * 10**6, b'{"a":' * 10**6],
)
def test_what_is_no_manifest_is_refused(text: bytes, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "m"
    forge(path, {**read_members(saved), artifact.MANIFEST: text})
    with pytest.raises(tl.ArtifactError):
        tl.load(path)


@pytest.mark.parametrize(
    ("version", "advice"),
    [(1, "compile the model again with this one, or load it"), (3, "upgrade tvmlayers")],
)
def test_another_version_of_the_format_says_what_to_do(
    version: int, advice: str, saved: Path, tmp_path: Path
) -> None:
    def edit(manifest: Any) -> None:
        manifest.clear()
        manifest.update(format="tvmlayers", format_version=version)

    with pytest.raises(tl.ArtifactError, match=f"format version {version}.*{advice}"):
        tl.load(edited(saved, tmp_path / "m", edit))


def test_a_foreign_format_is_refused(saved: Path, tmp_path: Path) -> None:
    path = edited(saved, tmp_path / "m", lambda manifest: manifest.update(format="another"))
    with pytest.raises(tl.ArtifactError, match="its manifest says otherwise"):
        tl.load(path)


def test_a_model_that_json_cannot_describe_is_not_saved(saved: Path, tmp_path: Path) -> None:
    loaded = tl.load(saved)
    changed = {**loaded.manifest, "created": "\ud800"}
    with pytest.raises(tl.ConfigError, match="cannot be saved"):
        artifact.write(tmp_path / "m", changed, b"", loaded.packed_weights())
    assert not list(tmp_path.iterdir())


def _slot(manifest: Any, side: str = "inputs") -> Any:
    return manifest["entries"][0][side][0]


def _kernel(manifest: Any) -> Any:
    return next(each for each in manifest["weights"] if each["layout"] is not None)
