"""Reads and writes `.tvml`: one zip file with machine code, packed weights and a manifest.

Members, stored as they are: `lib.so`, `weights.safetensors`, `manifest.json`. Nothing of an
artefact is executed before its hashes and the CPU features it needs were compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import threading
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers import targets
from tvmlayers.arena import allocate_arena
from tvmlayers.dtypes import numpy_dtype
from tvmlayers.errors import ArtifactError, TargetError

FORMAT, FORMAT_VERSION = "tvmlayers", 1
MANIFEST, LIBRARY, WEIGHTS = "manifest.json", "lib.so", "weights.safetensors"
IMAGES = {kind: f"device.{kind}" for kind in ("cubin", "ptx")}  # of an artefact for a GPU
REQUIRED_KEYS = ("entries", "checks", "weights", "arena_bytes", "cpu_features", "hashes", "target")

DTYPES = {  # NumPy's names and those of safetensors
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint16": "U16",
    "uint8": "U8",
}
# What zipfile raises for a file that is damaged in one place or another.
DAMAGE = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error, EOFError),
    *(OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError),
)


def write(
    path: str | os.PathLike[str],
    manifest: Mapping[str, Any],
    library: bytes,
    weights: Mapping[str, NDArray[Any]],
    images: Mapping[str, bytes] | None = None,
) -> None:
    """Write an artefact to `path`, whole or not at all; adds the hashes to the manifest.

    images: a GPU's code by kind, of those in `IMAGES`.
    """
    temporary = f"{os.fspath(path)}.{os.getpid()}-{threading.get_ident()}"
    try:
        with open(temporary, "xb") as file, zipfile.ZipFile(file, "w") as archive:
            archive.writestr(LIBRARY, library)
            for kind, image in (images or {}).items():
                archive.writestr(IMAGES[kind], image)
            digest = hashlib.sha256()
            with archive.open(WEIGHTS, "w", force_zip64=True) as member:
                for chunk in _safetensors(weights):
                    digest.update(chunk)
                    member.write(chunk)
            hashes = {
                "library": hashlib.sha256(library).hexdigest(),
                "weights": digest.hexdigest(),
                **{
                    kind: hashlib.sha256(image).hexdigest()
                    for kind, image in (images or {}).items()
                },
            }
            head = {"format": FORMAT, "format_version": FORMAT_VERSION}
            archive.writestr(MANIFEST, json.dumps({**head, **manifest, "hashes": hashes}, indent=1))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], bytes, NDArray[np.uint8]]:
    """(manifest, library, arena) of the artefact at `path`, checked.

    The packed weights are read straight into the arena, at the offsets that the manifest gives.
    Raises ArtifactError for a file that is damaged, foreign or newer than this library, and
    TargetError where this machine lacks what the code needs.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                manifest = _read_manifest(archive, path)
                check_machine(manifest, path)
                library = archive.read(LIBRARY)
                if hashlib.sha256(library).hexdigest() != manifest["hashes"]["library"]:
                    raise ArtifactError(f"{path} is damaged: the machine code has changed")
                with archive.open(WEIGHTS) as member:
                    arena = _read_weights(member, manifest, path)
        except DAMAGE as error:
            if isinstance(error, (ArtifactError, TargetError)):
                raise
            raise ArtifactError(
                f"{path} is no artefact of tvmlayers, or a damaged one ({error}); "
                "write it again with compiled.save(path)"
            ) from error
    return manifest, library, arena


def read_images(path: str | os.PathLike[str], manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """The code for a GPU by kind, of an artefact whose manifest was read; none for a CPU's."""
    images: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for kind, member in IMAGES.items():
                if kind in manifest["hashes"]:
                    images[kind] = archive.read(member)
    except DAMAGE as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    for kind, image in images.items():
        if hashlib.sha256(image).hexdigest() != manifest["hashes"][kind]:
            raise ArtifactError(f"{path} is damaged: the GPU's code has changed")
    return images


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest alone, whatever machine the artefact is for."""
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _read_manifest(archive, path)
        except DAMAGE as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"{path} is no artefact of tvmlayers: {error}") from error


def check_machine(manifest: Mapping[str, Any], path: object = "the artefact") -> None:
    """TargetError where this machine lacks something that the compiled code uses."""
    target = manifest["target"]
    triple = str(target.get("triple") or manifest.get("host", ""))
    why = targets.obstacle(triple, manifest["cpu_features"])
    if why:
        raise TargetError(
            f"{path} was compiled for {target.get('name', '?')}: it {why}; "
            "compile the model for one of those that `tvmlayers targets` says run here"
        )


def _read_manifest(archive: zipfile.ZipFile, path: object) -> dict[str, Any]:
    absent = {MANIFEST, LIBRARY, WEIGHTS}.difference(archive.namelist())
    if absent:
        raise ArtifactError(f"{path} is no artefact of tvmlayers: it has no {min(absent)}")
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise ArtifactError(f"{path} is damaged: a member is compressed, none ever is")
    manifest = json.loads(archive.read(MANIFEST))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(f"{path} is no artefact of tvmlayers: its manifest says otherwise")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version}, this tvmlayers reads {FORMAT_VERSION}; "
            "upgrade tvmlayers, or compile the model again with this one"
        )
    lacking = [key for key in REQUIRED_KEYS if key not in manifest]
    if lacking:
        raise ArtifactError(f"{path} is damaged: its manifest lacks {', '.join(lacking)}")
    return manifest


def _safetensors(weights: Mapping[str, NDArray[Any]]) -> Iterator[Any]:
    """The bytes of a safetensors file, piece by piece: 8 bytes of length, header, tensors."""
    header: dict[str, Any] = {}
    end = 0
    for name, array in weights.items():
        begin, end = end, end + array.nbytes
        dtype = DTYPES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for array in weights.values():
        if array.nbytes:
            yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _read_weights(member: IO[bytes], manifest: Mapping[str, Any], path: object) -> Any:
    """The arena, filled from an open safetensors file."""
    arena = allocate_arena(manifest["arena_bytes"])
    digest = hashlib.sha256()

    def take(count: int) -> bytes:
        data = member.read(count)
        digest.update(data)
        return data

    (length,) = struct.unpack("<Q", take(8))
    header = json.loads(take(length))
    header.pop("__metadata__", None)
    places = {weight["name"]: weight for weight in manifest["weights"]}
    if header.keys() != places.keys():
        raise ArtifactError(f"{path} is damaged: manifest and weights name different tensors")
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        place = places[name]
        begin, end = end, entry["data_offsets"][1]
        if (
            entry["data_offsets"][0] != begin
            or entry["dtype"] != DTYPES[place["dtype"]]
            or entry["shape"] != list(place["shape"])
            or end - begin != numpy_dtype(place["dtype"]).itemsize * _product(place["shape"])
            or not 0 <= place["offset"] <= arena.nbytes - (end - begin)
        ):
            raise ArtifactError(f"{path} is damaged: manifest and weights differ on {name!r}")
        _read_into(member, arena[place["offset"] : place["offset"] + end - begin], digest)
    if member.read(1) or digest.hexdigest() != manifest["hashes"]["weights"]:
        raise ArtifactError(f"{path} is damaged: the weights have changed")
    return arena


def _read_into(member: IO[bytes], space: NDArray[np.uint8], digest: Any) -> None:
    chunk = 1 << 20  # stays in the cache from the read to the hash
    for start in range(0, space.nbytes, chunk):
        data = member.read(min(chunk, space.nbytes - start))
        digest.update(data)
        space[start : start + chunk] = np.frombuffer(data, np.uint8)


def _product(shape: list[int]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
