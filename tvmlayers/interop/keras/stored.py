"""A Keras model's configuration and weights, out of memory or out of a file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tvmlayers.artifact.weights import to_numpy
from tvmlayers.errors import ConfigError, MissingDependencyError, ModelImportError, TvmLayersError

Place = tuple[str, ...]
"""The names of the models that a layer is in, and its own."""
Weights = Mapping[Place, Sequence[Any]]
Described = Mapping[str, Any]

LARGEST_CONFIG = 64 * 2**20  # bytes; a model of thousands of layers takes a few MB


def read_model(model: Any) -> tuple[Described, Weights]:
    """Configuration and weights of a Keras model in memory."""
    if not all(hasattr(model, part) for part in ("to_json", "layers", "built")):
        raise ConfigError(
            "from_keras expected a Keras 3 model or the path of a .keras file, got "
            f"{type(model).__name__}"
        )
    if not model.built:
        raise ModelImportError(
            f"the Keras model {model.name!r} was never built: call it once, or model.build(shape)"
        )
    try:
        described = json.loads(model.to_json())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ModelImportError(
            f"the Keras model {model.name!r} has no configuration, as a model that subclasses "
            f"keras.Model: {error}"
        ) from error
    return described, dict(_weights_of(model, ()))


def _weights_of(model: Any, path: Place) -> Iterator[tuple[Place, list[Any]]]:
    for layer in model.layers:
        own = (*path, layer.name)
        if hasattr(layer, "layers"):
            yield from _weights_of(layer, own)
        else:
            yield own, [to_numpy(_plain(weight)) for weight in layer.weights]


def _plain(variable: Any) -> Any:
    """What a Keras variable holds: an array of its backend."""
    value = getattr(variable, "value", variable)
    return value.numpy() if hasattr(value, "numpy") and not hasattr(value, "detach") else value


def read_file(path: Path) -> tuple[Described, Weights]:
    """Configuration and weights of a .keras file, of which nothing is unpacked onto the disk."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(
            "from_keras reads .keras files by h5py, which is not installed: "
            "pip install 'tvmlayers[keras]'"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("config.json").file_size > LARGEST_CONFIG:
                raise ModelImportError(f"{path} has a configuration of more than 64 MiB")
            described = json.loads(archive.read("config.json"))
            with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
                return described, dict(_stored(file, ()))
    except (zipfile.BadZipFile, KeyError, OSError, RecursionError, ValueError) as error:
        if isinstance(error, TvmLayersError):
            raise
        raise ModelImportError(f"{path} is no .keras file, or a damaged one: {error}") from error


def _stored(group: Any, path: Place) -> Iterator[tuple[Place, list[Any]]]:
    """The weights below a group of the file; each layer has its name in an attribute."""
    for layer in group.get("layers", {}).values():
        own = (*path, str(layer["vars"].attrs["name"]))
        if "layers" in layer:
            yield from _stored(layer, own)
        else:
            yield own, [_array(layer["vars"], str(i)) for i in range(len(layer["vars"]))]


def _array(group: Any, name: str) -> Any:
    import h5py

    # A link may lead out of the file, and external storage to any file of this machine.
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or group[name].external:
        raise ModelImportError(f"the weight {group.name}/{name} lies outside of the file")
    return group[name][()]
