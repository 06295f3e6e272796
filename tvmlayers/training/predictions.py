"""The predictions that a step leaves in its scratch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers.artifact.arena import ALIGNMENT, view
from tvmlayers.errors import ArtifactError
from tvmlayers.runtime.signature import extent

Array = NDArray[Any]


def read_predictions(
    about: Mapping[str, Any], scratch: NDArray[np.uint8], sizes: Mapping[str, int]
) -> Array:
    """(batch, outputs), a copy; sizes: of the batch.

    about: shape and dtype, the activation that the step left out, and "behind": the axes and the
    bytes of an element of all values that lie before it.
    """

    def shape_of(dims: Sequence[int | str]) -> tuple[int, ...]:
        return tuple(extent(dim, sizes) for dim in dims)

    behind = [math.prod(shape_of(dims)) * size for dims, size in about["behind"]]
    offset = sum((-(-nbytes // ALIGNMENT) + 1) * ALIGNMENT for nbytes in behind)
    shape, dtype = shape_of(about["shape"]), about["dtype"]
    if offset + math.prod(shape) * np.dtype(dtype).itemsize > scratch.nbytes:
        raise ArtifactError("the manifest of this step is damaged: its predictions are nowhere")
    made = view(scratch, offset, shape, dtype)
    return _ACTIVATIONS[about["activation"]](made)


def _softmax(logits: Array) -> Array:
    made: Array = np.exp(logits - logits.max(axis=-1, keepdims=True))
    made /= made.sum(axis=-1, keepdims=True)
    return made


def _sigmoid(logits: Array) -> Array:
    made: Array = 0.5 * (1 + np.tanh(0.5 * logits))
    return made


_ACTIVATIONS: dict[str | None, Callable[[Array], Array]] = {
    None: np.copy,
    "softmax": _softmax,
    "sigmoid": _sigmoid,
}
