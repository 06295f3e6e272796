"""The manifest of a compiled model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from tvmlayers.artifact.fields import (
    Count,
    IndexCheck,
    Made,
    OffsetsCheck,
    Scalar,
    Shape,
    Size,
    Symbol,
    Target,
    Weight,
    check_shape,
    check_weights,
    nbytes_of_shape,
    need,
    typed,
)
from tvmlayers.dtypes import FLOAT_DTYPES, INDEX_DTYPES


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


class Manifest(Made, forbid_unknown_fields=True, kw_only=True):
    """`kernels` may have more fields; `check` looks at those that are read."""

    entries: Annotated[list[Entry], Meta(min_length=1)]
    checks: list[IndexCheck | OffsetsCheck]
    weights: list[Weight]
    kernels: list[dict[str, Any]]
    leading_axes: Annotated[int, Meta(ge=0, le=64)] = 0
    host: str | UnsetType = UNSET
    cuda: Cuda | UnsetType = UNSET


def check(manifest: Manifest) -> None:
    """Raise `Wrong` where fields do not fit one another."""
    target = typed(manifest.target, Target, "target")
    typed(manifest.kernels, list[Kernel], "kernels")
    check_weights(manifest)
    for place, entry in enumerate(manifest.entries):
        _check_entry(entry, f"entries[{place}]")
        shapes = [*(each.shape for each in entry.inputs), *(each.shape for each in entry.outputs)]
        leading = manifest.leading_axes
        are_free = all(len([a for a in s[:leading] if _is_free(a)]) == leading for s in shapes)
        need(are_free, f"leading_axes is {leading}, not so in entries[{place}]")
    symbols = [entry.symbol for entry in manifest.entries]
    need(len(set(symbols)) == len(symbols), "entries: two have the same symbol")
    for place, check in enumerate(manifest.checks):
        need(_is_about_an_input(check, manifest.entries), f"checks[{place}].input is no such input")
    if manifest.cuda is not UNSET:
        _check_cuda(manifest, manifest.cuda, target)
    for entry in manifest.entries if manifest.cuda is UNSET else ():
        given = entry.sizes, entry.checks, entry.device_scratch
        need(given == (UNSET,) * 3, "entries: they are a GPU's, and there is no field cuda")


def _check_entry(entry: Entry, field: str) -> None:
    bound: set[str] = set()
    for i, given in enumerate(entry.inputs):
        where = f"{field}.inputs[{i}]"
        is_integer = given.dtype in INDEX_DTYPES
        need(is_integer or given.dtype in FLOAT_DTYPES, f"{where}.dtype is {given.dtype!r}")
        need(is_integer == (given.kind in ("index", "offsets")), f"{where}.kind is {given.kind!r}")
        need(given.kind != "offsets" or len(given.shape) == 1, f"{where}.shape of offsets")
        check_shape(given.shape, bound, f"{where}.shape", binds=True)
        nbytes_of_shape(given.shape, given.dtype)
    for i, output in enumerate(entry.outputs):
        where = f"{field}.outputs[{i}]"
        known = (*FLOAT_DTYPES, *INDEX_DTYPES)
        need(output.dtype in known, f"{where}.dtype is {output.dtype!r}")
        check_shape(output.shape, bound, f"{where}.shape", binds=False)
        nbytes_of_shape(output.shape, output.dtype)
    names = {given.name for given in entry.inputs}
    need(len(names) == len(entry.inputs), f"{field}.inputs: two have the same name")


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
    need(target.capability is not None, "target.capability is missing")
    need(isinstance(manifest.host, str), "host is missing")
    need(set(cuda.resources) <= set(cuda.kernels), "cuda.resources: of a kernel that is not there")
    images = manifest.hashes.cubin, manifest.hashes.ptx
    need(images != (UNSET, UNSET), "hashes: there is neither cubin nor ptx")
    for place, entry in enumerate(manifest.entries):
        shapes = chain.from_iterable(given.shape for given in entry.inputs)
        named = [axis.partition("-")[0] for axis in shapes if isinstance(axis, str)]
        field = f"entries[{place}]"
        need(entry.sizes == list(dict.fromkeys(named)), f"{field}.sizes are not its symbols")
        need(isinstance(entry.device_scratch, bool), f"{field}.device_scratch is missing")
        known = isinstance(entry.checks, int) and entry.checks <= len(manifest.checks)
        need(known, f"{field}.checks is {entry.checks}, of {len(manifest.checks)}")
