"""What every compiled model has: its signature, and inputs bound to it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tvmlayers import tensors
from tvmlayers.bound import BoundCall
from tvmlayers.errors import ConfigError, ShapeError
from tvmlayers.signature import Entry, Slot, input_order
from tvmlayers.tensors import Array, Kind


class ModelCall:
    """A manifest and its entry points, wherever they run."""

    def __init__(self, manifest: Mapping[str, Any], entries: tuple[Entry, ...]) -> None:
        self.manifest = manifest
        self._entries = entries
        self._names = input_order(entries)
        self._signatures = {entry.names for entry in entries}

    def __call__(self, *inputs: Any, out: Any = None, **named: Any) -> Any:
        """The outputs for the inputs, in `out` where given."""
        raise NotImplementedError

    def bind(self, *inputs: Any, out: Any = None, **named: Any) -> BoundCall:
        """A call with these buffers, to be made as often as wanted: `bound()`.

        The model runs once, so that whatever is wrong is said here.
        """
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.tvml` artefact that `tvmlayers.load` takes."""
        raise NotImplementedError

    def packed_weights(self) -> dict[str, Array]:
        """Views of the packed weights by name, in the layouts that the manifest gives."""
        raise NotImplementedError

    @property
    def threads(self) -> int:
        """Threads of the CPU that one call may use."""
        raise NotImplementedError

    def _by_name(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs by name, in the order of the signature; None counts as not given."""
        if len(inputs) > len(self._names):
            raise ShapeError(f"{self._usage()}, got {len(inputs)} positional inputs")
        given = dict(zip(self._names, inputs, strict=False))
        for name, value in named.items():
            if name not in self._names:
                raise ConfigError(f"{self._usage()}, there is no input {name!r}")
            if given.get(name) is not None:
                raise ConfigError(f"{self._usage()}, got input {name!r} twice")
            given[name] = value
        given = {name: given[name] for name in self._names if given.get(name) is not None}
        if tuple(given) not in self._signatures:
            raise ShapeError(f"{self._usage()}, got {', '.join(given) or 'none'}")
        return given

    def _usage(self) -> str:
        takes = " or ".join(f"({', '.join(names)})" for names in sorted(self._signatures))
        return f"this model takes the inputs {takes}"

    def _type_lists(
        self, names: tuple[str, ...], imported: list[tuple[Array, Kind | None]]
    ) -> list[Array]:
        """The arrays, nested lists given the dtype that their input has."""
        slots = next(entry.inputs for entry in self._entries if entry.names == names)
        return [
            tensors.type_list(array, slot) if kind is None else array
            for (array, kind), slot in zip(imported, slots, strict=True)
        ]

    @property
    def inputs(self) -> tuple[Slot, ...]:
        """Name, shape, dtype and kind of each input of the longest signature."""
        return max(self._entries, key=lambda entry: len(entry.inputs)).inputs

    @property
    def outputs(self) -> tuple[Slot, ...]:
        """Name, shape and dtype of each output."""
        return self._entries[0].outputs

    @property
    def target(self) -> str:
        """The name of the target that the model was compiled for."""
        return str(self.manifest["target"]["name"])

    def report(self) -> list[dict[str, Any]]:
        """One row for each kernel: what it computes and where its schedule came from."""
        return [dict(row) for row in self.manifest.get("kernels", ())]
