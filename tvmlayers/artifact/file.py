"""Reads and writes `.tvml`: one zip file with machine code, packed weights and a manifest.

Members, stored as they are: `lib.so`, `weights.safetensors`, `manifest.json` and, as `sha256sum`
writes it, the hash of the manifest, which holds those of all others. Nothing of an artefact is
executed before these and the CPU features that it needs were compared.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers import targets
from tvmlayers.artifact import manifest as manifests
from tvmlayers.artifact.arena import allocate_arena
from tvmlayers.artifact.weights import packed, views
from tvmlayers.errors import ArtifactError, ConfigError, HostMemoryError, TargetError
from tvmlayers.files import saving
from tvmlayers.safetensors_file import DTYPES, chunks

LIBRARY, WEIGHTS = "lib.so", "weights.safetensors"
MANIFEST, MANIFEST_HASH = "manifest.json", "manifest.sha256"
IMAGES = {kind: f"device.{kind}" for kind in ("cubin", "ptx")}  # of an artefact for a GPU
MOST_HEADER = 100_000_000  # bytes, by the definition of the format safetensors

# What zipfile raises for a file that is damaged in one place or another.
DAMAGE = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error, EOFError),
    *(ValueError, KeyError, TypeError, AttributeError, OverflowError),
)


def write(
    path: str | os.PathLike[str],
    manifest: Mapping[str, Any],
    library: bytes,
    weights: Mapping[str, NDArray[Any]],
    images: Mapping[str, bytes] | None = None,
    form: str = manifests.FORMAT,
) -> None:
    """Write an artefact to `path`, whole or not at all; adds format and hashes to the manifest.

    images: a GPU's code by kind, of those in `IMAGES`; form: the format. SaveError where the file
    cannot be written, ConfigError for a model that JSON cannot describe.
    """
    hashes = {"library": _hash(library)}
    hashes |= {kind: _hash(image) for kind, image in (images or {}).items()}
    with saving(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(LIBRARY, library)
        for kind, image in (images or {}).items():
            archive.writestr(IMAGES[kind], image)
        digest = hashlib.sha256()
        with archive.open(WEIGHTS, "w", force_zip64=True) as member:
            for chunk in chunks(weights):
                digest.update(chunk)
                member.write(chunk)
        head = {"format": form, "format_version": manifests.FORMAT_VERSION}
        hashes["weights"] = digest.hexdigest()
        text = json.dumps({**manifest, **head, "hashes": hashes}, indent=1).encode()
        try:
            manifests.decode(text, path, form)
        except ArtifactError as error:
            raise ConfigError(f"this model cannot be saved: {error}") from error
        archive.writestr(MANIFEST, text)
        archive.writestr(MANIFEST_HASH, f"{_hash(text)}  {MANIFEST}\n")


def read(
    path: str | os.PathLike[str], *, to_run: bool = True, form: str = manifests.FORMAT
) -> tuple[dict[str, Any], bytes, NDArray[np.uint8]]:
    """(manifest, library, arena) of the artefact at `path`, checked.

    to_run: whether this machine has to have what the code needs; form: the format. The packed
    weights are read straight into the arena, at the offsets that the manifest gives.
    ArtifactError for a file that is damaged, foreign or of another version of the format,
    TargetError where this machine lacks what the code needs, HostMemoryError where there is too
    little memory for the weights, and OSError where the file cannot be read.
    """
    with _opened(path) as archive:
        manifest = _read_manifest(archive, path, form)
        if to_run:
            check_machine(manifest, path)
        library = _read_member(archive, LIBRARY, manifest["hashes"]["library"], path)
        with archive.open(WEIGHTS) as member:
            nbytes = archive.getinfo(WEIGHTS).file_size
            arena = _read_weights(member, nbytes, manifest, path)
    return manifest, library, arena


def update(
    path: str | os.PathLike[str],
    weights: Mapping[str, object] | Sequence[object],
    output: str | os.PathLike[str],
) -> None:
    """Write the artefact at `path` with new weights to `output`, which may be the same file.

    weights: as `weights.packed` takes them. The machine code stays, and may be another machine's.
    WeightsError for weights that do not fit, and what `read` and `write` raise.
    """
    manifest, library, _ = read(path, to_run=False)
    arena = packed(manifest, weights)
    write(output, manifest, library, views(manifest, arena), read_images(path, manifest))


def read_images(path: str | os.PathLike[str], manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """The code for a GPU by kind, of an artefact whose manifest was read; none for a CPU's."""
    with _opened(path) as archive:
        return {
            kind: _read_member(archive, member, manifest["hashes"][kind], path)
            for kind, member in IMAGES.items()
            if kind in manifest["hashes"]
        }


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest alone, whatever machine the artefact is for, and of any format."""
    with _opened(path) as archive:
        return _read_manifest(archive, path, None)


def check_machine(manifest: Mapping[str, Any], path: object = "the artefact") -> None:
    """TargetError where this machine lacks something that the compiled code uses."""
    target = manifest["target"]
    triple = str(target.get("triple") or manifest.get("host", ""))
    why = targets.obstacle(triple, manifest["cpu_features"])
    if why:
        raise TargetError(
            f"{path} was compiled for {target['name']}: it {why}; "
            "compile the model for one of those that `tvmlayers targets` says run here"
        )


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """The archive; ArtifactError for what its bytes show to be none, and for nothing else."""
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                size = os.fstat(file.fileno()).st_size
                if any(info.file_size > size for info in archive.infolist()):
                    raise ArtifactError(f"{path} is damaged: a member is larger than the file")
                yield archive
        except (ArtifactError, TargetError, HostMemoryError):
            raise
        except MemoryError as error:
            raise HostMemoryError(
                f"{path} has {os.fstat(file.fileno()).st_size:,} bytes, and there is no memory to "
                "read them; free some, or raise the limit of this process"
            ) from error
        except (*DAMAGE, OSError) as error:
            # A place before the file's begin, which a damaged directory may name, is EINVAL.
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise ArtifactError(
                f"{path} is no artefact of tvmlayers, or a damaged one ({error}); "
                "write it again with compiled.save(path)"
            ) from error


def _read_manifest(archive: zipfile.ZipFile, path: object, form: str | None) -> dict[str, Any]:
    names = archive.namelist()
    absent = {MANIFEST, LIBRARY, WEIGHTS}.difference(names)
    if absent:
        raise ArtifactError(f"{path} is no artefact of tvmlayers: it has no {min(absent)}")
    if len(set(names)) != len(names):
        raise ArtifactError(f"{path} is damaged: two members have the same name")
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise ArtifactError(f"{path} is damaged: a member is compressed, none ever is")
    text = archive.read(MANIFEST)
    manifest = manifests.decode(text, path, form)
    if MANIFEST_HASH not in names or archive.read(MANIFEST_HASH).split()[:1] != [
        _hash(text).encode()
    ]:
        raise ArtifactError(f"{path} is damaged: the manifest has changed")
    return manifest


def _read_member(archive: zipfile.ZipFile, name: str, digest: str, path: object) -> bytes:
    content = archive.read(name)
    if _hash(content) != digest:
        raise ArtifactError(f"{path} is damaged: {name} has changed")
    return content


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_weights(
    member: IO[bytes], nbytes: int, manifest: Mapping[str, Any], path: object
) -> NDArray[np.uint8]:
    """The arena, filled from an open safetensors file of `nbytes`."""
    digest = hashlib.sha256()
    start = member.read(8)
    (length,) = struct.unpack("<Q", start)
    if length > min(nbytes, MOST_HEADER):
        raise ArtifactError(f"{path} is damaged: the weights have changed")
    text = member.read(length)
    digest.update(start + text)
    header = json.loads(text)
    if list(header) != [weight["name"] for weight in manifest["weights"]]:
        raise ArtifactError(f"{path} is damaged: manifest and weights name different tensors")
    end = 0
    for weight in manifest["weights"]:
        begin, end = end, end + manifests.nbytes_of(weight)
        if header[weight["name"]] != {
            "dtype": DTYPES[weight["dtype"]],
            "shape": weight["shape"],
            "data_offsets": [begin, end],
        }:
            raise ArtifactError(
                f"{path} is damaged: manifest and weights differ on {weight['name']!r}"
            )
    if nbytes != 8 + length + end:  # known before memory is asked for
        raise ArtifactError(f"{path} is damaged: the weights have changed")
    arena = allocate_arena(manifest["arena_bytes"])
    for weight in manifest["weights"]:
        begin = weight["offset"]
        _read_into(member, arena[begin : begin + manifests.nbytes_of(weight)], digest)
    if digest.hexdigest() != manifest["hashes"]["weights"]:
        raise ArtifactError(f"{path} is damaged: the weights have changed")
    return arena


def _read_into(member: IO[bytes], space: NDArray[np.uint8], digest: Any) -> None:
    chunk = 1 << 20  # stays in the cache from the read to the hash
    for start in range(0, space.nbytes, chunk):
        data = member.read(min(chunk, space.nbytes - start))
        digest.update(data)
        space[start : start + chunk] = np.frombuffer(data, np.uint8)
