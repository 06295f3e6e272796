"""The manifest of an artefact: what each field may be, checked once, when it is read or written.

The structs say which fields there are; `_check` says what they must be to one another. What passes
is a plain mapping again, which the rest of the library reads without looking twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tvmlayers.artifact.arena import ALIGNMENT
from tvmlayers.artifact.panels import PAIR, PaddedLayout, PanelLayout
from tvmlayers.dtypes import FLOAT_DTYPES, INDEX_DTYPES, numpy_dtype
from tvmlayers.errors import ArtifactError
from tvmlayers.model_config import ModelConfig
from tvmlayers.safetensors_file import DTYPES

FORMAT, FORMAT_VERSION = "tvmlayers", 2

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Size = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Symbol = Annotated[str, Meta(pattern="^[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*$")]  # of a function
Axis = Annotated[str, Meta(pattern="^[a-z][a-z0-9]*(-[1-9][0-9]{0,8})?$")]  # such as "n", "ends-1"
Shape = list[Count | Axis]
T = TypeVar("T")
Scalar = int | float | str | bool | None


class Output(Struct, forbid_unknown_fields=True):
    """A tensor that an entry point gives."""

    name: str
    shape: Shape
    dtype: str
    kind: Literal["value"] | UnsetType = UNSET


class Input(Struct, forbid_unknown_fields=True):
    """A tensor that an entry point takes."""

    name: str
    shape: Shape
    dtype: str
    kind: Literal["value", "index", "offsets", "weights"]


class Entry(Struct, forbid_unknown_fields=True):
    """An entry point; the last three are those of a model for a GPU."""

    symbol: Symbol
    inputs: Annotated[list[Input], Meta(min_length=1)]
    outputs: Annotated[list[Output], Meta(min_length=1)]
    scratch: bool | UnsetType = UNSET
    sizes: list[str] | UnsetType = UNSET
    checks: Count | UnsetType = UNSET
    device_scratch: bool | UnsetType = UNSET


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


class Regime(Struct):
    """What was decided for batches of up to so many; more may be said."""

    source: str
    decisions: dict[str, Scalar]
    up_to: Size | None
    record: dict[str, Any] = {}


class Kernel(Struct):
    """A row of the report on kernels; more may be said, such as the traits of its workload."""

    kind: str
    layer: str = ""
    schedule: str = ""
    flops_per_item: Count = 0
    bytes_per_item: Count = 0
    weight_bytes: Count = 0
    regimes: list[Regime] = []


class Target(Struct):
    """The target's description; more may be said."""

    name: str
    triple: str = ""
    capability: tuple[Count, Count] | None = None


class Resources(Struct, forbid_unknown_fields=True):
    """What the compiler said that a GPU's kernel takes."""

    registers: Count
    shared: Count
    stack: Count
    spill_stores: Count
    spill_loads: Count


class Cuda(Struct, forbid_unknown_fields=True):
    """What a model for a GPU has besides."""

    kernels: list[str]
    arch: str
    compiler: str
    resources: dict[str, Resources]


class Hashes(Struct, forbid_unknown_fields=True):
    """SHA-256 of the other members."""

    library: Digest
    weights: Digest
    cubin: Digest | UnsetType = UNSET
    ptx: Digest | UnsetType = UNSET


class Manifest(Struct, forbid_unknown_fields=True):
    """`target` and `kernels` may say more; what is read of them is checked beside."""

    format: str
    format_version: int
    tvmlayers_version: str
    tvm_version: str
    created: str
    model: ModelConfig
    target: dict[str, Any]
    entries: Annotated[list[Entry], Meta(min_length=1)]
    checks: list[IndexCheck | OffsetsCheck]
    weights: list[Weight]
    arena_bytes: Size
    kernels: list[dict[str, Any]]
    cpu_features: list[str]
    hashes: Hashes
    leading_axes: Annotated[int, Meta(ge=0, le=64)] = 0
    host: str | UnsetType = UNSET
    cuda: Cuda | UnsetType = UNSET


class Head(Struct):
    """What every version of the format begins with."""

    format: Scalar = None
    format_version: Scalar = None


def decode(text: bytes, path: object) -> dict[str, Any]:
    """The manifest that `text` is; ArtifactError that names the field where it is none.

    path: of the artefact, for errors.
    """
    try:
        head = msgspec.json.decode(text, type=Head)
        if head.format != FORMAT:
            raise ArtifactError(f"{path} is no artefact of tvmlayers: its manifest says otherwise")
        if head.format_version != FORMAT_VERSION:
            raise _other_version(head.format_version, path)
        found = msgspec.json.decode(text, type=Manifest)
        _check(found)
    except (msgspec.MsgspecError, RecursionError, _Wrong) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise ArtifactError(
            f"the manifest of {path} is damaged, or was not written by tvmlayers: {reason}"
        ) from error
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain


def nbytes_of(weight: Mapping[str, Any]) -> int:
    """The bytes of one of the manifest's weights."""
    return _nbytes(weight["shape"], weight["dtype"])


class _Wrong(Exception):
    """What does not fit together, as a sentence that names the field."""


def _other_version(version: object, path: object) -> ArtifactError:
    is_older = isinstance(version, int) and version < FORMAT_VERSION
    advice = (
        "compile the model again with this one, or load it with the tvmlayers that wrote it"
        if is_older
        else "upgrade tvmlayers, or compile the model again with this one"
    )
    return ArtifactError(
        f"{path} has format version {version!r}, this tvmlayers reads {FORMAT_VERSION}; {advice}"
    )


def _check(manifest: Manifest) -> None:
    """Raise `_Wrong` where fields do not fit one another."""
    target = _typed(manifest.target, Target, "target")
    _typed(manifest.kernels, list[Kernel], "kernels")
    _check_weights(manifest)
    for place, entry in enumerate(manifest.entries):
        _check_entry(entry, f"entries[{place}]")
        shapes = [*(each.shape for each in entry.inputs), *(each.shape for each in entry.outputs)]
        leading = manifest.leading_axes
        are_free = all(len([a for a in s[:leading] if _is_free(a)]) == leading for s in shapes)
        _need(are_free, f"leading_axes is {leading}, not so in entries[{place}]")
    symbols = [entry.symbol for entry in manifest.entries]
    _need(len(set(symbols)) == len(symbols), "entries: two have the same symbol")
    for place, check in enumerate(manifest.checks):
        _need(
            _is_about_an_input(check, manifest.entries), f"checks[{place}].input is no such input"
        )
    if manifest.cuda is not UNSET:
        _check_cuda(manifest, manifest.cuda, target)
    for entry in manifest.entries if manifest.cuda is UNSET else ():
        given = entry.sizes, entry.checks, entry.device_scratch
        _need(given == (UNSET,) * 3, "entries: they are a GPU's, and there is no field cuda")


def _check_weights(manifest: Manifest) -> None:
    """Weights follow one another, each at the next multiple of ALIGNMENT, as they are written."""
    end = 0
    for place, weight in enumerate(manifest.weights):
        field = f"weights[{place}]"
        _need(weight.dtype in DTYPES, f"{field}.dtype is {weight.dtype!r}")
        _need(weight.offset == end, f"{field}.offset is {weight.offset}, expected {end}")
        nbytes = _nbytes(weight.shape, weight.dtype)
        end += -(-nbytes // ALIGNMENT) * ALIGNMENT
        if weight.layout is not None:
            fits = _layout_fits(weight, f"{field}.layout")
            _need(fits, f"{field}.layout does not fit its shape or dtype")
    expected = max(end, ALIGNMENT)
    found = manifest.arena_bytes
    _need(found == expected, f"arena_bytes is {found}, and the weights take {expected}")
    names = {weight.name for weight in manifest.weights}
    _need(len(names) == len(manifest.weights), "weights: two have the same name")


def _layout_fits(weight: Weight, field: str) -> bool:
    """Whether `panels.unpack` can read the weight."""
    described = dict(weight.layout or {})
    is_padded = described.pop("kind", None) == "padded"
    if is_padded:
        padded = _typed(described, PaddedLayout, field)
        sizes = padded.k, padded.n, padded.rows, padded.columns, padded.depth
        return (
            padded.describe() == weight.layout
            and min(sizes) >= 1
            and padded.k <= padded.rows
            and padded.n <= padded.columns
            and padded.rows % padded.depth == 0
            and list(padded.shape) == weight.shape
        )
    panels = _typed(described, PanelLayout, field)
    return (
        panels.describe() == weight.layout
        and min(panels.k, panels.n, panels.width) >= 1
        and panels.depth in ((1,) if panels.is_vector else (1, PAIR))
        and panels.tail <= panels.tail_width
        and panels.dtype == weight.dtype
        and (panels.codes == 1 or (panels.codes in (4, 8) and panels.dtype == "uint32"))
        and [panels.size] == weight.shape
    )


def _check_entry(entry: Entry, field: str) -> None:
    bound: set[str] = set()
    for i, given in enumerate(entry.inputs):
        where = f"{field}.inputs[{i}]"
        is_integer = given.dtype in INDEX_DTYPES
        _need(is_integer or given.dtype in FLOAT_DTYPES, f"{where}.dtype is {given.dtype!r}")
        _need(is_integer == (given.kind in ("index", "offsets")), f"{where}.kind is {given.kind!r}")
        _need(given.kind != "offsets" or len(given.shape) == 1, f"{where}.shape of offsets")
        _check_shape(given.shape, bound, f"{where}.shape", binds=True)
        _nbytes(given.shape, given.dtype)
    for i, output in enumerate(entry.outputs):
        where = f"{field}.outputs[{i}]"
        known = (*FLOAT_DTYPES, *INDEX_DTYPES)
        _need(output.dtype in known, f"{where}.dtype is {output.dtype!r}")
        _check_shape(output.shape, bound, f"{where}.shape", binds=False)
        _nbytes(output.shape, output.dtype)
    names = {given.name for given in entry.inputs}
    _need(len(names) == len(entry.inputs), f"{field}.inputs: two have the same name")


def _check_shape(shape: Sequence[int | str], bound: set[str], field: str, *, binds: bool) -> None:
    """Every symbol is one that an input has by itself; those of `shape` are added to `bound`."""
    for axis in shape:
        if isinstance(axis, str):
            symbol, _, less = axis.partition("-")
            if binds and not less:
                bound.add(symbol)
            _need(symbol in bound, f"{field} has {axis!r}, and no input before it says {symbol}")


def _is_free(axis: int | str) -> bool:
    return isinstance(axis, str) and "-" not in axis


def _is_about_an_input(check: IndexCheck | OffsetsCheck, entries: Sequence[Entry]) -> bool:
    """Whether an entry has an input of that kind where the check says."""
    if isinstance(check, IndexCheck):
        return any(_kind(entry, check.input) == "index" for entry in entries)
    return any(
        _kind(entry, check.input) == "offsets" and _kind(entry, check.indices_input) == "index"
        for entry in entries
    )


def _kind(entry: Entry, place: int) -> str | None:
    return entry.inputs[place].kind if place < len(entry.inputs) else None


def _check_cuda(manifest: Manifest, cuda: Cuda, target: Target) -> None:
    _need(target.capability is not None, "target.capability is missing")
    _need(isinstance(manifest.host, str), "host is missing")
    _need(set(cuda.resources) <= set(cuda.kernels), "cuda.resources: of a kernel that is not there")
    images = manifest.hashes.cubin, manifest.hashes.ptx
    _need(images != (UNSET, UNSET), "hashes: there is neither cubin nor ptx")
    for place, entry in enumerate(manifest.entries):
        shapes = chain.from_iterable(given.shape for given in entry.inputs)
        named = [axis.partition("-")[0] for axis in shapes if isinstance(axis, str)]
        field = f"entries[{place}]"
        _need(entry.sizes == list(dict.fromkeys(named)), f"{field}.sizes are not its symbols")
        _need(isinstance(entry.device_scratch, bool), f"{field}.device_scratch is missing")
        known = isinstance(entry.checks, int) and entry.checks <= len(manifest.checks)
        _need(known, f"{field}.checks is {entry.checks}, of {len(manifest.checks)}")


def _nbytes(shape: Sequence[int | str], dtype: str) -> int:
    """The bytes of a tensor, each free axis taken for 1; `_Wrong` where no memory has so many."""
    nbytes = numpy_dtype(dtype).itemsize * prod(axis for axis in shape if isinstance(axis, int))
    _need(nbytes < 1 << 47 and len(shape) <= 32, f"a shape of {shape} is larger than any memory")
    return nbytes


def _typed(value: object, kind: type[T], field: str) -> T:
    """`value` as a struct that may leave fields of it out; `_Wrong` where its types differ."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _Wrong(f"{error} of {field}") from error


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _Wrong(otherwise)
