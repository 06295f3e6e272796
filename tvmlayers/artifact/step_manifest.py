"""The manifest of an exported training step."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from tvmlayers.artifact.fields import (
    Count,
    IndexCheck,
    Made,
    OffsetsCheck,
    Shape,
    Size,
    Target,
    Weight,
    check_shape,
    check_weights,
    nbytes_of_shape,
    need,
    typed,
)
from tvmlayers.dtypes import FLOAT_DTYPES, INDEX_DTYPES


class LabelCheck(Struct, tag_field="kind", tag="label", forbid_unknown_fields=True):
    """A flag for labels of a training step that are no classes."""

    classes: Size
    input: Count


class StepWeight(Weight, forbid_unknown_fields=True, kw_only=True):
    """A weight, a state or what is derived of one, of a training step; plain: its shape as layers
    have it."""

    role: Literal["weight", "state", "derived", "constant"]
    plain: list[Count]


class StepInput(Struct, forbid_unknown_fields=True):
    """A tensor that a training step takes."""

    name: str
    shape: Shape
    dtype: str
    kind: Literal["value", "index", "label"]


class Prediction(StepInput, forbid_unknown_fields=True, kw_only=True):
    """What a model gave for a batch; behind: axes and bytes of an element of all values in the
    scratch before it; activation: what the step left out."""

    activation: Literal["softmax", "sigmoid"] | None
    behind: list[tuple[Shape, Annotated[int, Meta(ge=1, le=8)]]]


class StepOutput(Struct, forbid_unknown_fields=True):
    """An output of a model that is trained."""

    name: str
    truth: StepInput
    prediction: Prediction


class Manifest(Made, forbid_unknown_fields=True, kw_only=True):
    """Of an exported training step; optimizer, tables: configurations of optimisers."""

    inputs: Annotated[list[StepInput], Meta(min_length=1)]
    outputs: Annotated[list[StepOutput], Meta(min_length=1)]
    dtype: str
    checks: list[IndexCheck | OffsetsCheck | LabelCheck]
    weights: list[StepWeight]
    iterations: str
    optimizer: dict[str, Any]
    tables: dict[str, Any]
    loss: str


def check(manifest: Manifest) -> None:
    """Raise `Wrong` where fields do not fit one another."""
    typed(manifest.target, Target, "target")
    check_weights(manifest)
    for place, weight in enumerate(manifest.weights):
        fits = len(weight.plain) <= 32 and _plain_fits(weight)
        need(fits, f"weights[{place}].plain does not fit its shape")
    iterations = next((w for w in manifest.weights if w.name == manifest.iterations), None)
    need(
        iterations is not None and (iterations.shape, iterations.dtype) == ([1], "int64"),
        "iterations names no count of steps",
    )
    need(manifest.dtype in FLOAT_DTYPES, f"dtype is {manifest.dtype!r}")
    takes = [*manifest.inputs, *(output.truth for output in manifest.outputs)]
    bound: set[str] = set()
    for i, given in enumerate(takes):
        is_integer = given.dtype in INDEX_DTYPES
        need(is_integer or given.dtype in FLOAT_DTYPES, f"inputs[{i}].dtype is {given.dtype!r}")
        need(is_integer == (given.kind != "value"), f"inputs[{i}].kind is {given.kind!r}")
        check_shape(given.shape, bound, f"inputs[{i}].shape", binds=True)
        nbytes_of_shape(given.shape, given.dtype)
    for place, output in enumerate(manifest.outputs):
        made, field = output.prediction, f"outputs[{place}].prediction"
        truth = made.shape[:1] if output.truth.kind == "label" else made.shape
        need(output.truth.shape == truth, f"outputs[{place}].truth.shape is not its prediction's")
        need(made.dtype in FLOAT_DTYPES, f"{field}.dtype is {made.dtype!r}")
        for shape in (made.shape, *(shape for shape, _ in made.behind)):
            check_shape(shape, bound, field, binds=False)
            nbytes_of_shape(shape, made.dtype)
    names = {given.name for given in takes}
    need(len(names) == len(takes), "inputs: two have the same name")
    for place, check in enumerate(manifest.checks):
        kind = "label" if isinstance(check, LabelCheck) else "index"
        known = check.input < len(takes) and takes[check.input].kind == kind
        need(known, f"checks[{place}].input is no such input")


def _plain_fits(weight: StepWeight) -> bool:
    """Whether the packed shape has room for the plain one."""
    if weight.layout is not None:
        return weight.plain == [weight.layout.get("k"), weight.layout.get("n")]
    return len(weight.plain) == len(weight.shape) and all(
        plain <= packed for plain, packed in zip(weight.plain, weight.shape, strict=True)
    )
