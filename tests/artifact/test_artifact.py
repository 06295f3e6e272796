"""Artefacts: what is written comes back, and what was damaged does not."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import handmade
import numpy as np
import pytest
import safetensors.numpy

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.artifact import file as artifact
from tvmlayers.artifact.arena import ALIGNMENT, HUGE_PAGE, address, allocate_arena, view

WEIGHTS = {
    "a/kernel": np.arange(60, dtype=np.float32).reshape(3, 5, 4),
    "a/bias": np.arange(5, dtype=np.float64),
    "b/empty": np.zeros((0, 4), np.float32),
    "b/bits": np.arange(7, dtype=np.uint16),
}


def write(path: Path, **changes: Any) -> dict[str, Any]:
    """Write an artefact of `WEIGHTS`; the manifest comes back."""
    places, offset = [], 0
    for name, array in WEIGHTS.items():
        dtype = array.dtype.name
        places.append({"name": name, "shape": array.shape, "dtype": dtype, "offset": offset})
        offset += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    manifest = {
        **handmade.scale_manifest(),
        "weights": places,
        "arena_bytes": offset,
        **changes,
    }
    artifact.write(path, manifest, b"machine code", WEIGHTS)
    return manifest


def rewrite(path: Path, member: str, data: bytes) -> None:
    """Replace one member, its checksum made good: damage that only our own checks can see."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, member: data}.items():
            archive.writestr(name, content)


def read_member(path: Path, member: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(member)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "model.tvml"
    written = write(path)
    manifest, library, arena = artifact.read(path)
    assert library == b"machine code"
    assert manifest["entries"] == written["entries"]
    for place in manifest["weights"]:
        found = view(arena, place["offset"], tuple(place["shape"]), place["dtype"])
        np.testing.assert_array_equal(found, WEIGHTS[place["name"]])


def test_weights_are_a_safetensors_file_that_others_read(tmp_path: Path) -> None:
    path = tmp_path / "model.tvml"
    write(path)
    found = safetensors.numpy.load(read_member(path, artifact.WEIGHTS))
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in WEIGHTS.items()
    }


def test_members_are_stored_and_not_compressed(tmp_path: Path) -> None:
    path = tmp_path / "model.tvml"
    write(path)
    with zipfile.ZipFile(path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "model.tvml"
    write(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write(path, created=object())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("member", [artifact.LIBRARY, artifact.WEIGHTS])
def test_changed_content_is_refused(tmp_path: Path, member: str) -> None:
    path = tmp_path / "model.tvml"
    write(path)
    content = bytearray(read_member(path, member))
    content[-1] ^= 1
    rewrite(path, member, bytes(content))
    with pytest.raises(tl.ArtifactError, match="is damaged"):
        artifact.read(path)


@pytest.mark.parametrize("cut", [0, 1, 30, 200, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "model.tvml"
    write(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(tl.ArtifactError):
        artifact.read(path)


def test_no_flipped_byte_goes_unseen(tmp_path: Path) -> None:
    path = tmp_path / "model.tvml"
    write(path)
    good = path.read_bytes()
    expected = artifact.read(path)[2].tobytes()
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(good), 300):
        bad = bytearray(good)
        bad[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(bad)
        try:
            manifest, library, arena = artifact.read(path)
        except (tl.ArtifactError, tl.TargetError):
            continue
        # A byte that nothing depends on, such as a date of the zip directory.
        assert (library, arena.tobytes()) == (b"machine code", expected)
        assert manifest["weights"]


def test_a_foreign_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(tl.ArtifactError, match="no artefact of tvmlayers"):
        artifact.read(path)


def test_code_for_missing_cpu_features_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = handmade.save(tmp_path / "model.tvml")
    monkeypatch.setattr(targets.host, "read_cpu_flags", lambda: frozenset({"fma"}))
    monkeypatch.setattr("tvmlayers.runtime.ffi.load_library", lambda _: pytest.fail("was loaded"))
    with pytest.raises(tl.TargetError, match="lacks: avx2"):
        tl.load(path)


def test_code_for_another_instruction_set_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.tvml"
    write(path, target={"name": "neoverse-n1", "triple": "aarch64-linux-gnu"})
    with pytest.raises(tl.TargetError, match="is aarch64 code, and this machine is x86_64"):
        artifact.read(path)
    assert artifact.read_manifest(path)["target"]["name"] == "neoverse-n1"


def test_a_missing_file_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        artifact.read(tmp_path / "absent.tvml")


@pytest.mark.parametrize("nbytes", [0, 1, 64, 5000, 9 << 20])
def test_an_arena_is_zeroed_writable_and_aligned(nbytes: int) -> None:
    arena = allocate_arena(nbytes)
    assert arena.shape == (nbytes,)
    assert not arena.any()
    arena[...] = 1
    assert address(arena) % (HUGE_PAGE if nbytes > 4 << 20 else 64) == 0
