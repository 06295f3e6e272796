"""What exporters write out in several nodes: activations, normalisations, lengths of vectors."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

import numpy as np

from tvmlayers.interop.codes import Array
from tvmlayers.interop.onnx.calls import Call

MOST_FACTORS = 16  # of a product that is looked at as a whole
SAME_NUMBERS = ("Cast", "Expand", "Identity")


def scalar(call: Call, name: str) -> float | None:
    """The number of a constant of one element."""
    value = call.constant_of(name)
    return float(value.reshape(())) if value is not None and value.size == 1 else None


def is_near(value: float | None, wanted: float) -> bool:
    """Whether a constant is a number, as exactly as float32 holds it."""
    return value is not None and bool(np.isclose(value, wanted, rtol=1e-6, atol=0))


@dataclass(frozen=True)
class Product:
    """number times these tensors, each as often as it is a factor, in the order of their names."""

    number: float
    factors: tuple[str, ...]


def product_of(call: Call, name: str, whole: str = "", met: set[str] | None = None) -> Product:
    """What a tensor is a product of: Mul, Div by a number and whole powers are taken apart.

    whole: a tensor that is not; met: takes the names of all that there are on the way.
    """
    number, factors, waiting = 1.0, list[str](), [name]
    while waiting:
        taken = waiting.pop()
        if met is not None:
            met.add(taken)
        source, constant = call.call_of(taken), scalar(call, taken)
        room = len(factors) + len(waiting) < MOST_FACTORS
        if constant is not None:
            number *= constant
        elif source is None or not room or taken == whole:
            factors.append(taken)
        elif source.kind == "Mul":
            waiting += source.inputs
        elif source.kind == "Div" and (below := scalar(call, source.inputs[1])):
            number /= below
            waiting.append(source.inputs[0])
        elif source.kind == "Pow" and scalar(call, source.inputs[1]) in (2.0, 3.0):
            waiting += [source.inputs[0]] * int(scalar(call, source.inputs[1]) or 0)
        else:
            factors.append(taken)
    return Product(number, tuple(sorted(factors)))


def plus(call: Call, name: str, number: float) -> str | None:
    """x where a tensor is x + number."""
    source = call.call_of(name)
    if source is not None and source.kind == "Add":
        for x, constant in (source.inputs, reversed(source.inputs)):
            if is_near(scalar(call, constant), number):
                return x
    return None


def activation_of(call: Call, name: str) -> tuple[str, str] | None:
    """(activation, x) of a tensor that is written out as a product, or None."""
    met = set[str]()
    alone = product_of(call, name, met=met)
    if len(alone.factors) == 1 and is_near(alone.number, 1 / 6):
        x = _clipped(call, alone.factors[0])
        return None if x is None else ("hard_sigmoid", x)
    for x in sorted(met - {name}):
        whole = product_of(call, name, x)
        if len(whole.factors) != 2 or x not in whole.factors:
            continue
        (gate,) = [factor for factor in whole.factors if factor != x] or [x]
        source = call.call_of(gate)
        if source is None:
            continue
        if is_near(whole.number, 1):
            if source.kind == "Sigmoid" and source.inputs[0] == x:
                return "silu", x
            is_hard = source.kind == "HardSigmoid" and is_near(source.get("alpha", 0.2), 1 / 6)
            if is_hard and source.inputs[0] == x:
                return "hard_silu", x
            if source.kind == "Tanh" and _is(call, source.inputs[0], "Softplus", x):
                return "mish", x
        if is_near(whole.number, 1 / 6) and _clipped(call, gate) == x:
            return "hard_silu", x
        inner = plus(call, gate, 1.0) if is_near(whole.number, 0.5) else None
        if inner is not None and (made := _gelu(call, inner, x)) is not None:
            return made, x
    return None


def _is(call: Call, name: str, kind: str, x: str) -> bool:
    source = call.call_of(name)
    return source is not None and source.kind == kind and source.inputs[0] == x


def _clipped(call: Call, name: str) -> str | None:
    """x of clip(x + 3, 0, 6)."""
    source = call.call_of(name)
    if source is None or source.kind != "Clip" or len(source.inputs) != 3:
        return None
    limits = [scalar(call, limit) for limit in source.inputs[1:]]
    return plus(call, source.inputs[0], 3.0) if limits == [0.0, 6.0] else None


def _gelu(call: Call, inner: str, x: str) -> str | None:
    """Which gelu x / 2 (1 + inner) is."""
    source = call.call_of(inner)
    if source is None or source.kind not in ("Erf", "Tanh"):
        return None
    argument = product_of(call, source.inputs[0], x)
    if source.kind == "Erf":
        is_erf = argument.factors == (x,) and is_near(argument.number, sqrt(0.5))
        return "gelu" if is_erf else None
    if not is_near(argument.number, sqrt(2 / pi)):
        return None
    # x + c x^3, or x (1 + c x^2)
    wanted: tuple[str, ...] = (x, x, x)
    if len(argument.factors) == 1:
        added = call.call_of(argument.factors[0])
        if added is None or added.kind != "Add" or x not in added.inputs:
            return None
        (more,) = [name for name in added.inputs if name != x] or [x]
    else:
        left = [name for name in argument.factors if name != x]
        found = plus(call, left[0], 1.0) if len(left) == 1 and len(argument.factors) == 2 else None
        more, wanted = found or "", (x, x)
    cubic = product_of(call, more, x)
    is_tanh = cubic.factors == wanted and is_near(cubic.number, 0.044715)
    return "gelu_tanh" if is_tanh else None


@dataclass(frozen=True)
class Reduced:
    """A reduction of x over axes, which stay with length 1."""

    x: str
    axes: tuple[int, ...]


def reduced(call: Call, name: str, kind: str) -> Reduced | None:
    """The reduction of that kind that a tensor is; axes count from the back."""
    source = call.call_of(name)
    if source is None or source.kind != kind or not source.get("keepdims", 1):
        return None
    given = source.get("axes", None)
    if given is None and source.is_constant(1):
        given = source.constant(1).reshape(-1).tolist()
    return Reduced(source.inputs[0], tuple(sorted(given))) if given else None


@dataclass(frozen=True)
class Normal:
    """What is brought to one scale. kind: "layer" or "rms"; epsilon: a constant of the graph."""

    kind: str
    x: str
    axes: tuple[int, ...]
    epsilon: float


def normal_of(call: Call, name: str) -> Normal | None:
    """The LayerNormalization or RMSNormalization without weights that a tensor is."""
    source = call.call_of(name)
    if source is None or source.kind not in ("Div", "Mul"):
        return None
    pairs = [tuple(source.inputs)] + ([tuple(reversed(source.inputs))] * (source.kind == "Mul"))
    for d, other in pairs:
        root = _root(call, other) if source.kind == "Div" else _inverse_root(call, other)
        if root is None:
            continue
        added = call.call_of(root)
        if added is None or added.kind != "Add":
            continue
        for square, constant in (added.inputs, reversed(added.inputs)):
            epsilon, mean = scalar(call, constant), reduced(call, square, "ReduceMean")
            if epsilon is None or mean is None:
                continue
            if not _is_square(call, mean.x, d):
                continue
            left = call.call_of(d)
            if left is not None and left.kind == "Sub":
                centre = reduced(call, left.inputs[1], "ReduceMean")
                if centre == Reduced(left.inputs[0], mean.axes):
                    return Normal("layer", left.inputs[0], mean.axes, epsilon)
            return Normal("rms", d, mean.axes, epsilon)
    return None


def _is_square(call: Call, name: str, x: str) -> bool:
    return product_of(call, name, x) == Product(1.0, (x, x))


def _root(call: Call, name: str) -> str | None:
    """a of sqrt(a)."""
    source = call.call_of(name)
    if source is None:
        return None
    if source.kind == "Sqrt":
        return source.inputs[0]
    is_power = source.kind == "Pow" and scalar(call, source.inputs[1]) == 0.5
    return source.inputs[0] if is_power else None


def _inverse_root(call: Call, name: str) -> str | None:
    """a of 1 / sqrt(a)."""
    source = call.call_of(name)
    if source is None:
        return None
    if source.kind == "Reciprocal":
        return _root(call, source.inputs[0])
    if source.kind == "Div" and scalar(call, source.inputs[0]) == 1:
        return _root(call, source.inputs[1])
    is_power = source.kind == "Pow" and scalar(call, source.inputs[1]) == -0.5
    return source.inputs[0] if is_power else None


@dataclass(frozen=True)
class Unit:
    """x over its length along axes, which is at least `least`."""

    x: str
    axes: tuple[int, ...]
    least: float


def unit_of(call: Call, name: str) -> Unit | None:
    """The Unit that a tensor is, where it is one."""
    source = call.call_of(name)
    if source is None or source.kind != "Div":
        return None
    x, below = source.inputs[0], stripped(call, source.inputs[1])
    least, limited = 0.0, call.call_of(below)
    if limited is not None and limited.kind in ("Clip", "Max") and len(limited.inputs) >= 2:
        limits = [scalar(call, limit) if limit else None for limit in limited.inputs]
        if len(limits) > 2 and limits[2] is not None:
            return None
        least, below = limits[1] or 0.0, stripped(call, limited.inputs[0])
    length = reduced(call, below, "ReduceL2")
    if length is None and (square := _root(call, below)) is not None:
        length = reduced(call, square, "ReduceSumSquare") or reduced(call, square, "ReduceSum")
        if length is not None and call.call_of(square).kind == "ReduceSum":  # type: ignore[union-attr]
            is_square = _is_square(call, length.x, x)
            length = Reduced(x, length.axes) if is_square else None
    return Unit(x, length.axes, least) if length is not None and length.x == x else None


def stripped(call: Call, name: str) -> str:
    """A tensor before it was expanded, cast or copied."""
    source = call.call_of(name)
    while source is not None and source.kind in SAME_NUMBERS:
        name = source.inputs[0]
        source = call.call_of(name)
    return name


def same_axes(axes: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """axes counted from the front."""
    return tuple(sorted(axis % rank for axis in axes))


def with_constant(call: Call) -> tuple[str, Array] | None:
    """(tensor, constant) of an operator of one of each."""
    names: Any = call.inputs
    for x, other in ((0, 1), (1, 0)):
        if len(names) == 2 and call.is_constant(other) and not call.is_constant(x):
            return names[x], call.constant(other)
    return None
