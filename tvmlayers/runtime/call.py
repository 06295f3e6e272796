"""What every compiled model has: its signature, and inputs bound to it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvmlayers.artifact import weights as artifact_weights
from tvmlayers.errors import ConfigError, ShapeError
from tvmlayers.runtime import diagnose, tensors
from tvmlayers.runtime.bound import BoundCall
from tvmlayers.runtime.diagnose import Sizes
from tvmlayers.runtime.folding import Shape, folded, leading_shape, unfolded
from tvmlayers.runtime.results import empty
from tvmlayers.runtime.signature import Entry, Slot, input_order
from tvmlayers.runtime.tensors import Array, Kind
from tvmlayers.safetensors_file import read as read_arrays


class Prepared(NamedTuple):
    """The inputs and outputs of one call, checked and brought into the form of compiled code."""

    entry: Entry
    sizes: Sizes
    imported: list[tuple[Array, Kind | None]]
    seen: list[Array]
    """The inputs as the caller knows them, which errors speak of."""
    inputs: list[Array]
    """The same as compiled code takes them."""
    results: list[Array]
    """The outputs as the caller gets them."""
    outputs: list[Array]
    """The same as compiled code fills them."""

    @property
    def arguments(self) -> list[Array]:
        """What compiled code is called with first."""
        return [*self.inputs, *self.outputs]

    @property
    def kind(self) -> Kind:
        """What makes a tensor of the caller's kind of a result."""
        return next((kind for _, kind in self.imported if kind is not None), tensors.identity)


class ModelCall:
    """A manifest and its entry points, wherever they run."""

    _arena: NDArray[np.uint8]
    """The packed weights. It never changes: new weights come in another one."""

    def __init__(self, manifest: Mapping[str, Any], entries: tuple[Entry, ...]) -> None:
        self.manifest = manifest
        self._entries = entries
        self._names = input_order(entries)
        self._signatures = {entry.names for entry in entries}
        # How many first axes of every input and output others may replace: see `folding`.
        self._leading = int(manifest.get("leading_axes", 0))

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
        return artifact_weights.views(self.manifest, self._arena)

    def set_weights(self, weights: Mapping[str, object] | Sequence[object]) -> None:
        """Take new weights; the machine code stays.

        weights: all of them, by the names and in the shapes of the model's layers, such as
        `{"dense/kernel": (in, out), "dense/bias": (out,)}`, or in a list as the model's
        `get_weights()` gives. They are packed beside the old ones, which calls that have begun
        still use; each later call uses the new ones, bound calls too. WeightsError, and nothing
        changes, where one is missing, unknown, or has another shape or no numbers.
        """
        self._take(artifact_weights.packed(self.manifest, weights))

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Take the weights of a safetensors file, as `model.save_weights` and `model.save` write.

        WeightsError as of `set_weights`, and for a damaged file.
        """
        self.set_weights(read_arrays(Path(path))[0])

    def _take(self, arena: NDArray[np.uint8]) -> None:
        """Use the weights in `arena` from now on."""
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

    def _prepare(self, given: Mapping[str, Any], out: Any) -> Prepared:
        """A call with these inputs by name; the errors of what does not fit."""
        names = tuple(given)
        slots = next(entry.inputs for entry in self._entries if entry.names == names)
        imported = [tensors.import_array(value, name) for name, value in given.items()]
        # Nested lists get the dtype that their input has.
        seen = [
            tensors.type_list(array, slot) if kind is None else array
            for (array, kind), slot in zip(imported, slots, strict=True)
        ]
        kinds = [kind for _, kind in imported]
        lead = leading_shape(seen, slots, self._leading)
        inputs = seen if lead is None else [self._folded(array, lead) for array in seen]
        entry, sizes = diagnose.choose_entry(self._entries, names, inputs, kinds)
        inputs = [tensors.pack(a, s.dtype) for a, s in zip(inputs, entry.inputs, strict=True)]
        shapes = self._result_shapes(entry, sizes, lead)
        results = outputs = tensors.prepare_outputs(out, entry.outputs, shapes, inputs)
        if lead is not None:
            outputs = [self._folded(result, lead) for result in results]
        return Prepared(entry, sizes, imported, seen, inputs, results, outputs)

    def _folded(self, array: Array, lead: Shape) -> Array:
        shape = folded(array.shape, lead, self._leading)
        return array.reshape(shape) if array.size else empty(shape, array.dtype)

    def _result_shapes(self, entry: Entry, sizes: Sizes, lead: Shape | None) -> list[Shape]:
        shapes = entry.output_shapes(sizes)
        if lead is None:
            return shapes
        return [unfolded(shape, lead, self._leading) for shape in shapes]

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
