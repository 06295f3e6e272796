"""Embedding: rows of a table, picked by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tvmlayers.errors import ConfigError, ShapeError
from tvmlayers.layers import initializers
from tvmlayers.layers.base import WeightSpec
from tvmlayers.layers.checks import index_dtype, one_of
from tvmlayers.layers.graph import Dim, Shape, SymbolicTensor
from tvmlayers.layers.stored import StoredLayer
from tvmlayers.numeric import positive, whole
from tvmlayers.quantization import ROWS
from tvmlayers.quantization.rows import row_bytes

OUT_OF_BOUNDS = ("raise", "clip", "zero", "unchecked")


class Table(StoredLayer):
    """What Embedding and EmbeddingBag share: a table of shape (input_dim, output_dim).

    padding_idx: the row that begins as zeros; negative counts from the end, as in torch.
    oob: what an index outside 0..input_dim-1 does. "raise" an IndexOutOfRangeError, "clip" to
        the nearest row, give a "zero" row, or "unchecked": undefined, for indices known good.
    weights: the table itself, or a list of it as in Keras 2.
    stored: how the table is kept, see `tvmlayers.quantize`; by default in the layer's dtype.
    """

    fits_any_shape = True
    form = ROWS
    main = "embeddings"
    input_name = "indices"

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: initializers.InitializerLike = "uniform",
        *,
        padding_idx: int | None = None,
        oob: str = "raise",
        dtype: object = "float32",
        name: str | None = None,
        seed: int | None = None,
        weights: Any = None,
        input_shape: Sequence[int | None] | None = None,
        stored: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype, input_shape=input_shape, seed=seed, stored=stored)
        self.input_dim = positive(self.kind, "input_dim", input_dim)
        self.output_dim = positive(self.kind, "output_dim", output_dim)
        self.embeddings_initializer = initializers.get(embeddings_initializer)
        self.padding_idx = self._row(padding_idx)
        self.oob = one_of("oob", oob, OUT_OF_BOUNDS)
        if weights is not None:
            listed = isinstance(weights, list | tuple) and np.ndim(weights[0]) == 2
            self._weights = self.check({"embeddings": weights[0] if listed else weights})

    def _row(self, padding_idx: int | None) -> int | None:
        if padding_idx is None:
            return None
        row = whole(self.kind, "padding_idx", padding_idx)
        if not -self.input_dim <= row < self.input_dim:
            raise ConfigError(
                f"{self.kind} expected padding_idx in {-self.input_dim}..{self.input_dim - 1} "
                f"(input_dim={self.input_dim}), got {row}"
            )
        return row % self.input_dim

    def float_specs(self) -> dict[str, WeightSpec]:
        shape = (self.input_dim, self.output_dim)
        return {"embeddings": WeightSpec(shape, self.embeddings_initializer, self.padding_idx)}

    def config(self) -> dict[str, Any]:
        return {
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": initializers.to_config(self.embeddings_initializer),
            "padding_idx": self.padding_idx,
            "oob": self.oob,
        }

    def need_indices(self, tensor: SymbolicTensor) -> None:
        """DTypeError or ConfigError unless the tensor is an Input of integers."""
        index_dtype(self.describe(), tensor.settle_dtype("int64"))
        if tensor.node is not None:
            raise ConfigError(
                f"{self.describe()} takes its indices straight from a tl.Input, "
                f"got the output of {tensor.node.layer.describe()}"
            )

    def output_dtype(self, inputs: tuple[SymbolicTensor, ...]) -> str:
        self.need_indices(inputs[0])
        return self.dtype

    def example_dtype(self, dtype: str | None) -> str | None:
        if dtype is not None:
            index_dtype(self.describe(), dtype)
        return "int64"

    def weight_bytes(self, inputs: tuple[SymbolicTensor, ...]) -> int:
        # One row for each index, whatever the vocabulary.
        return inputs[0].elements * row_bytes(self.output_dim, self.stored)


class Embedding(Table):
    """Maps indices of any shape (*s) to (*s, output_dim).

    input_length: the length that each row of 2-D indices must have; (batch, input_length).
    mask_zero: index 0 is padding, which GlobalAveragePooling1D then leaves out of its mean.
    The other arguments are explained at `Table`.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: initializers.InitializerLike = "uniform",
        *,
        mask_zero: bool = False,
        input_length: int | None = None,
        padding_idx: int | None = None,
        oob: str = "raise",
        dtype: object = "float32",
        name: str | None = None,
        seed: int | None = None,
        weights: Any = None,
        input_shape: Sequence[int | None] | None = None,
        stored: str | None = None,
    ) -> None:
        super().__init__(
            input_dim,
            output_dim,
            embeddings_initializer,
            padding_idx=padding_idx,
            oob=oob,
            dtype=dtype,
            name=name,
            seed=seed,
            weights=weights,
            input_shape=input_shape,
            stored=stored,
        )
        self.mask_zero = bool(mask_zero)
        self.input_length = (
            None if input_length is None else positive(self.kind, "input_length", input_length)
        )

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        (indices,) = inputs
        if self.input_length is not None and indices.shape[1:] != (self.input_length,):
            raise ShapeError(
                f"{self.describe()} expected indices of shape (batch, {self.input_length}), got "
                f"{indices.shape}; change input_length or give Input(shape=({self.input_length},))"
            )
        return (*indices.axes, self.output_dim)

    def output_mask(self, inputs: tuple[SymbolicTensor, ...]) -> SymbolicTensor | None:
        return inputs[0] if self.mask_zero else None

    def implied_input(self) -> tuple[Shape, bool] | None:
        if self.input_shape is not None:
            return super().implied_input()
        return (None, self.input_length), self.input_length is not None

    def free_input(self, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        if self.input_length is not None:
            return super().free_input(shapes)
        return tuple((None,) * len(shape) for shape in shapes)

    def row_axes(self) -> int | None:
        return 0 if self.input_length is None else None

    def config(self) -> dict[str, Any]:
        own = {"mask_zero": self.mask_zero, "input_length": self.input_length}
        return {**super().config(), **own}
