"""Fields that the manifests of all kinds of artefact have, and what they must be to one another."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tvmlayers.artifact.arena import ALIGNMENT
from tvmlayers.artifact.panels import PAIR, PaddedLayout, PanelLayout
from tvmlayers.dtypes import numpy_dtype
from tvmlayers.model_config import ModelConfig
from tvmlayers.safetensors_file import DTYPES

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Size = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Symbol = Annotated[str, Meta(pattern="^[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*$")]  # of a function
Axis = Annotated[str, Meta(pattern="^[a-z][a-z0-9]*(-[1-9][0-9]{0,8})?$")]  # such as "n", "ends-1"
Shape = list[Count | Axis]
T = TypeVar("T")
_WIDEST = 1 << 20  # panel, in columns
Scalar = int | float | str | bool | None


class IndexCheck(Struct, tag_field="kind", tag="index", forbid_unknown_fields=True):
    """A flag for indices outside of a table."""

    layer: str
    rows: Size
    input: Count


class OffsetsCheck(Struct, tag_field="kind", tag="offsets", forbid_unknown_fields=True):
    """A flag for offsets that cut their indices in no bags."""

    layer: str
    input: Count
    indices_input: Count = 0
    include_last_offset: bool = False


class Weight(Struct, forbid_unknown_fields=True):
    """A packed weight, and where in the arena it lies."""

    name: str
    shape: list[Count]
    dtype: str
    offset: Count
    layout: dict[str, str | int | bool] | None = None


class Target(Struct):
    """The target's description; more may be said."""

    name: str
    triple: str = ""
    capability: tuple[Count, Count] | None = None


class Hashes(Struct, forbid_unknown_fields=True):
    """SHA-256 of the other members."""

    library: Digest
    weights: Digest
    cubin: Digest | UnsetType = UNSET
    ptx: Digest | UnsetType = UNSET


class Made(Struct, forbid_unknown_fields=True, kw_only=True):
    """What an artefact was made of, by what and for which machine; `target` may have more fields
    than are read."""

    format: str
    format_version: int
    tvmlayers_version: str
    tvm_version: str
    created: str
    model: ModelConfig
    target: dict[str, Any]
    arena_bytes: Size
    cpu_features: list[str]
    hashes: Hashes


class Packed(Protocol):
    """A manifest with weights in an arena."""

    arena_bytes: int

    @property
    def weights(self) -> Sequence[Weight]:
        """In the order in which they lie."""


class Wrong(Exception):
    """What does not fit together, as a sentence that names the field."""


def check_weights(manifest: Packed) -> None:
    """Weights follow one another, each at the next multiple of ALIGNMENT, as they are written."""
    end = 0
    for place, weight in enumerate(manifest.weights):
        field = f"weights[{place}]"
        need(weight.dtype in DTYPES, f"{field}.dtype is {weight.dtype!r}")
        need(weight.offset == end, f"{field}.offset is {weight.offset}, expected {end}")
        nbytes = nbytes_of_shape(weight.shape, weight.dtype)
        end += -(-nbytes // ALIGNMENT) * ALIGNMENT
        if weight.layout is not None:
            fits = _layout_fits(weight, f"{field}.layout")
            need(fits, f"{field}.layout does not fit its shape or dtype")
    expected = max(end, ALIGNMENT)
    found = manifest.arena_bytes
    need(found == expected, f"arena_bytes is {found}, and the weights take {expected}")
    names = {weight.name for weight in manifest.weights}
    need(len(names) == len(manifest.weights), "weights: two have the same name")


def _layout_fits(weight: Weight, field: str) -> bool:
    """Whether `panels.unpack` can read the weight."""
    described = dict(weight.layout or {})
    is_padded = described.pop("kind", None) == "padded"
    if is_padded:
        padded = typed(described, PaddedLayout, field)
        sizes = padded.k, padded.n, padded.rows, padded.columns, padded.depth
        return (
            padded.describe() == weight.layout
            and min(sizes) >= 1
            and padded.k <= padded.rows
            and padded.n <= padded.columns
            and padded.rows % padded.depth == 0
            and list(padded.shape) == weight.shape
        )
    panels = typed(described, PanelLayout, field)
    return (
        panels.describe() == weight.layout
        and min(panels.k, panels.n, panels.width) >= 1
        and panels.width < _WIDEST
        and panels.depth in ((1,) if panels.is_vector else (1, PAIR))
        and panels.tail <= panels.tail_width
        and panels.dtype == weight.dtype
        and (panels.codes == 1 or (panels.codes in (4, 8) and panels.dtype == "uint32"))
        and [panels.size] == weight.shape
    )


def check_shape(shape: Sequence[int | str], bound: set[str], field: str, *, binds: bool) -> None:
    """Every symbol is one that an input has by itself; those of `shape` are added to `bound`."""
    for axis in shape:
        if isinstance(axis, str):
            symbol, _, less = axis.partition("-")
            if binds and not less:
                bound.add(symbol)
            need(symbol in bound, f"{field} has {axis!r}, and no input before it says {symbol}")


def nbytes_of_shape(shape: Sequence[int | str], dtype: str) -> int:
    """The bytes of a tensor, each free axis taken for 1; `Wrong` where no memory has so many."""
    nbytes = numpy_dtype(dtype).itemsize * prod(axis for axis in shape if isinstance(axis, int))
    need(nbytes < 1 << 47 and len(shape) <= 32, f"a shape of {shape} is larger than any memory")
    return nbytes


def typed(value: object, kind: type[T], field: str) -> T:
    """`value` as a struct that may leave fields of it out; `Wrong` where its types differ."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Wrong(f"{error} of {field}") from error


def need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)
