"""Matrices of a GGUF or safetensors file, and layers that keep the very numbers.

A matrix (outputs, inputs) is the kernel of a Dense, turned round, or the rows of an Embedding.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvmlayers.errors import ModelImportError
from tvmlayers.interop.codes import Array, Codes, Held, Rows
from tvmlayers.layers import Dense, Embedding
from tvmlayers.layers.names import snake_case

_HALVES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Blocks:
    """Codes (outputs, inputs) around zero, and the scales (outputs, groups) of `group` inputs each;
    0 for one scale an output. bits: 4 or 8."""

    bits: int
    codes: Array
    scales: Array
    group: int = 0


@dataclass(frozen=True)
class FileWeight:
    """A matrix of a file, (outputs, inputs). kind: what the file says of its numbers."""

    name: str
    shape: tuple[int, ...]
    kind: str
    read: Callable[[], Blocks | Array]

    def numbers(self) -> Array:
        """All of it in floats: float32 where it came in codes, times their scales."""
        found = self.read()
        if not isinstance(found, Blocks):
            return found
        return _rows(found).floats()

    def dense(
        self, activation: str = "linear", *, bias: object = None, name: str | None = None
    ) -> Dense:
        """A Dense with this kernel, and with a bias where one is given.

        Codes of int8 and int4 are kept where the layer has such a kind: one scale an output, or one
        for each 32, 64 or 128 inputs. Halves stay halves; other numbers become float32.
        """
        outputs, inputs = self._matrix()
        found = self.read()
        if isinstance(found, Blocks):
            scales = np.ascontiguousarray(found.scales.T)
            codes = Codes(f"int{found.bits}", found.codes.T, scales, found.group)
            held = codes.held()
        else:
            held = self._floats(np.ascontiguousarray(found.T))
        kind, arrays = held
        made = Dense(
            outputs,
            activation,
            use_bias=bias is not None,
            input_dim=inputs,
            stored=None if kind == "float32" else kind,
            name=name or snake_case(self.name.replace(".", "_")),
        )
        made.set_weights([*arrays, *([] if bias is None else [bias])])
        return made

    def embedding(self, *, name: str | None = None) -> Embedding:
        """An Embedding with these rows. Codes are kept where a row has one scale; halves stay
        halves, and other numbers become float32."""
        rows, columns = self._matrix()
        found = self.read()
        kind, arrays = _rows(found).held() if isinstance(found, Blocks) else self._floats(found)
        stored = None if kind == "float32" else kind
        name = name or snake_case(self.name.replace(".", "_"))
        made = Embedding(rows, columns, stored=stored, name=name)
        made.set_weights(arrays)
        return made

    def _floats(self, numbers: Array) -> Held:
        kind = numbers.dtype.name
        if numbers.dtype.kind in "biu":  # codes in an order of their own, or no weights
            raise ModelImportError(
                f"{self.name!r} is {kind}: weights are floats, or int8 and float8 with scales"
            )
        return (kind, [numbers]) if kind in _HALVES else ("float32", [numbers.astype(np.float32)])

    def _matrix(self) -> tuple[int, int]:
        if len(self.shape) != 2:
            raise ModelImportError(f"{self.name!r} expected a matrix, got shape {self.shape}")
        return self.shape[0], self.shape[1]


def read_weights(path: str | os.PathLike[str]) -> dict[str, FileWeight]:
    """The arrays of a .gguf or .safetensors file by name; their numbers are read when they are
    asked for.

    Of GGUF, Q8_0 and Q4_0 are codes with a scale for each 32 inputs, F32, F16 and BF16 floats, and
    what else the `gguf` package knows becomes float32. Of safetensors, int8 and float8 (E4M3, E5M2)
    come with what they are multiplied with, one number, one for each output, or one for each block:
    "<name>_scale", "_scale_inv" or "_scales", or "x.scale" or "x.scales" of "x.weight".
    ModelImportError for a damaged file, MissingDependencyError without the package `gguf`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if Path(path).suffix == ".gguf":
        from tvmlayers.interop.gguf import read_gguf

        return read_gguf(path)
    from tvmlayers.interop.safetensors import read_scaled

    return read_scaled(path)


def _rows(blocks: Blocks) -> Rows:
    zeros = np.zeros(blocks.scales.shape, np.int16)
    codes = blocks.codes.astype(np.int16)
    return Rows(blocks.bits, codes, zeros, blocks.scales, blocks.group)
