"""Input: where the data enters a functional model."""

from __future__ import annotations

from collections.abc import Sequence

from tvmlayers.dtypes import FLOAT_DTYPES
from tvmlayers.errors import ConfigError, DTypeError
from tvmlayers.layers.checks import INDEX_DTYPES, dtype_name
from tvmlayers.layers.graph import BATCH, Dim, Symbol, SymbolicTensor
from tvmlayers.layers.names import checked_name
from tvmlayers.numeric import positive, sizes


def Input(
    shape: int | Sequence[int | None] | None = None,
    *,
    dtype: object = None,
    name: str | None = None,
    batch_shape: Sequence[int | None] | None = None,
    batch: bool = True,
) -> SymbolicTensor:
    """A symbolic tensor of shape (None, *shape); None is an axis of any length.

    dtype: a float or integer dtype. Left out, the first layer that takes the tensor decides:
        int64 for an embedding, its own dtype for a layer with weights, else float32.
    batch_shape: the whole shape, batch axis (which must be None) included, instead of shape.
    batch: False for a tensor that has no batch axis: shape is then the whole shape. The flat
        indices of an EmbeddingBag with offsets are such a tensor, `Input((None,), batch=False)`.
    """
    if (shape is None) == (batch_shape is None):
        raise ConfigError("Input expected either shape=... or batch_shape=...")
    if batch_shape is not None:
        shape = sizes("Input", "batch_shape", batch_shape)
        if not shape or shape[0] is not None:
            raise ConfigError(
                f"Input expected a batch_shape that begins with None, got {shape}; "
                "one compiled model serves every batch size"
            )
        shape = shape[1:]
    assert shape is not None
    axes = axes_of("Input", sizes("Input", "shape", shape))
    if not batch and not axes:
        raise ConfigError("Input without a batch axis needs at least one axis in shape")
    if name == "out":
        raise ConfigError("an Input cannot be named 'out': calls name their result buffer so")
    if dtype is not None:
        known = FLOAT_DTYPES + INDEX_DTYPES
        if dtype_name(dtype) not in known:
            raise DTypeError(
                f"Input expected one of {', '.join(known)} as dtype, got {dtype_name(dtype)}"
            )
    return SymbolicTensor(
        (BATCH, *axes) if batch else axes,
        None if dtype is None else dtype_name(dtype),
        None if name is None else checked_name(name),
    )


def axes_of(owner: str, shape: tuple[int | None, ...]) -> tuple[Dim, ...]:
    """The axes of a shape without its batch axis; each None is a symbol of its own."""
    return tuple(
        Symbol(f"n{place}") if size is None else positive(owner, f"axis {place} of shape", size)
        for place, size in enumerate(shape, 1)
    )
