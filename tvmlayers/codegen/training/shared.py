"""Weights that several places of a model use: the gradients of all, as rows of one batch.

A gradient of a weight is a sum over rows. The rows of all uses are put side by side, sample by
sample, and the update sums over them as over those of one use: in a fixed order, whatever the
threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tvmlayers.codegen.cpu.merge_gradient import into_columns
from tvmlayers.codegen.training.tape import Dims, Tape, Value
from tvmlayers.errors import ConfigError


def joined(tape: Tape, what: str, values: Sequence[Value], row_axes: int) -> Value:
    """The rows of all values: (batch, rows, ...), each with its last `row_axes` axes.

    what: the layer, for errors. A value alone stays as it is. ConfigError for rows whose number
    is not known.
    """
    first, *others = values
    if not others:
        return first
    row: Dims = first.dims[len(first.dims) - row_axes :]
    widths = [_fixed(what, value.dims[1:]) for value in values]
    rows = [_fixed(what, value.dims[1 : len(value.dims) - row_axes]) for value in values]
    made = tape.value("joined", ("n", sum(rows), *row), first.dtype)
    # Integers are copied one by one: indices are few.
    lanes = tape.target.lanes(first.dtype) if first.dtype.startswith("float") else 1
    for i, (value, width) in enumerate(zip(values, widths, strict=True)):
        name, before = tape.name("joined"), sum(widths[:i])
        kernel = into_columns(name, sum(widths), before, width, lanes, first.dtype)
        tape.call(kernel, value, made)
    return made


def _fixed(what: str, dims: Dims) -> int:
    lengths = [dim for dim in dims if isinstance(dim, int)]
    if len(lengths) < len(dims):
        raise ConfigError(
            f"{what} is used in several places, on sequences of any length: no step is compiled "
            "for that yet. Give Input(shape=...) or input_length a number"
        )
    return prod(lengths)
