"""Layers whose largest weight may be kept in fewer bits than they compute in."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from tvmlayers.errors import ConfigError, DTypeError
from tvmlayers.layers.base import Array, Layer, WeightSpec
from tvmlayers.layers.checks import one_of
from tvmlayers.layers.weights import frozen
from tvmlayers.quantization import KINDS, Form, Kind
from tvmlayers.quantization.kinds import USUAL_GROUPS

if TYPE_CHECKING:
    from tvmlayers.layers.model import Model

Quantized = TypeVar("Quantized", "Model", Layer)


class StoredLayer(Layer):
    """A layer that keeps its weight `main` in `form`, as a `quantization.Kind`, or as it is.

    stored: the kind's name; the layer's own dtype where it is kept as it is.
    """

    has_weights = True
    has_groups: ClassVar[bool] = False
    form: ClassVar[Form]
    main: ClassVar[str]
    measured_error: float | None = None
    """The largest change of an output on calibration inputs by this layer alone, if measured."""

    def __init__(self, *, stored: str | None = None, **more: Any) -> None:
        super().__init__(**more)
        self.stored = self.dtype if stored is None else self._checked_kind(stored)

    def _checked_kind(self, kind: object) -> str:
        """kind; DTypeError where the layer's dtype is not float32."""
        base, *more = re.split("[/:]", str(kind), maxsplit=1)
        one_of("kind of stored weights", base, (*KINDS, self.dtype))
        known = Kind.of(str(kind)).name
        if more and not self.has_groups:
            raise ConfigError(
                f"{self.describe()} takes no groups of steps and no activations in fewer bits, got "
                f"{kind!r}; keep its weights as {base!r}"
            )
        if known != self.dtype and self.dtype != "float32":
            raise DTypeError(
                f"{self.describe()} is {self.dtype}, and weights are kept in fewer bits for "
                'float32 layers only; make it with dtype="float32"'
            )
        return known

    @property
    def is_quantized(self) -> bool:
        """Whether the weight is kept in fewer bits."""
        return self.stored != self.dtype

    def float_specs(self) -> dict[str, WeightSpec]:
        """The weights in the layer's dtype, in Keras's order; empty for a layer not yet built."""
        raise NotImplementedError

    def weight_specs(self) -> dict[str, WeightSpec]:
        """The weights as they are kept: arrays of `form` in the place of `main`."""
        floats = self.float_specs()
        if not self.is_quantized or not floats:
            return floats
        main = floats.pop(self.main)
        rows, columns = main.shape
        held = self.form.specs((rows, columns), self.stored)
        kept = {
            name: WeightSpec(shape, main.initializer, dtype=dtype)
            for name, (shape, dtype) in held.items()
        }
        return {**kept, **floats}

    def initial_weights(self, rng: np.random.Generator) -> dict[str, Array]:
        specs = self.float_specs().items()
        floats = {name: spec.make(self.weight_dtype, rng) for name, spec in specs}
        return self.held(floats, self.stored) if self.is_quantized else floats

    def held(self, floats: dict[str, Array], kind: str) -> dict[str, Array]:
        """Float weights as they are kept as `kind`; WeightsError where it cannot hold them."""
        rest = dict(floats)
        where = f"{self.describe()} weight {self.main!r}"
        kept = self.form.hold(rest.pop(self.main), kind, where)
        return {**{name: frozen(array) for name, array in kept.items()}, **rest}

    def check(self, weights: Any) -> dict[str, Array]:
        checked = super().check(weights)
        if self.is_quantized:
            self.form.check(checked, self.stored, self.describe())
        return checked

    def quantize(self, mode: str) -> None:
        one_of("kind of stored weights", mode, KINDS)
        group = USUAL_GROUPS.get(mode) if self.has_groups else None
        self.keep_as(f"{mode}/{group}" if group else mode)

    def keep_as(self, kind: str) -> None:
        """Keep the weights that the layer has as `kind` from now on; ConfigError unbuilt."""
        checked = self._checked_kind(kind)
        if self.is_quantized:
            raise ConfigError(
                f"{self.name!r} is kept as {self.stored} already; quantise the model with float "
                "weights that it was made from"
            )
        if checked == self.dtype:
            return
        if not self.float_specs():
            raise ConfigError(f"{self.name!r} has no weights yet: build it, or give input_dim")
        kept = self.held(dict(self.weights), checked)
        self.stored = checked
        self.assign(kept)

    def keep_floats(self) -> None:
        """Keep the very numbers of the weights in the layer's dtype from now on, each rounded once;
        none is changed of a layer that is kept so already."""
        if not self.is_quantized:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            main = self.form.floats(self.weights, self.stored).astype(self.dtype)
        floats = {**self.weights, self.main: frozen(main)}
        self.stored = self.dtype
        self.assign({name: floats[name] for name in self.float_specs()})

    def error_report(self, bound: str) -> dict[str, float]:
        """What `report()` says of a weight in fewer bits: its bound, by the name `bound`, and what
        was measured."""
        if not self.is_quantized:
            return {}
        found = {bound: self.form.bound(self.weights, self.stored)}
        measured = self.measured_error
        return found if measured is None else {**found, "measured_error": measured}

    def count_params(self) -> int:
        """As many as of float weights, however they are kept."""
        return sum(prod(spec.shape) for spec in self.float_specs().values())

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "stored": self.stored} if self.is_quantized else config


def layers_of(model: Model | Layer) -> list[Layer]:
    """The layers of a model, which is built, or a layer itself."""
    return [model] if isinstance(model, Layer) else model.ready().layers


def in_fewer_bits(model: Quantized, kinds: Sequence[str | None]) -> Quantized:
    """A copy of a model or layer. kinds: how each of its layers is kept, None for as it is."""
    made = _copy(model)
    for layer, kind in zip(layers_of(made), kinds, strict=True):
        if kind is not None:
            assert isinstance(layer, StoredLayer)
            layer.keep_as(kind)
    return made


def _copy(model: Quantized) -> Quantized:
    """A copy that shares the weights, which are read-only."""
    shared = {id(array): array for layer in layers_of(model) for array in layer.weights.values()}
    return copy.deepcopy(model, shared)


def fewer_bits(layer: object) -> str:
    """How a layer keeps its largest weight, where that is in fewer bits; else ""."""
    return layer.stored if isinstance(layer, StoredLayer) and layer.is_quantized else ""


def input_bits(layer: object) -> str:
    """What a layer in fewer bits rounds its inputs to, "int16" or "int8"; "" where to nothing."""
    kept = fewer_bits(layer)
    return Kind.of(kept).activations if kept else ""


def in_floats(model: Quantized) -> Quantized:
    """A model or layer with its weights in the dtypes of its layers, each number rounded once: a
    copy, where some are in fewer bits. Layers that round their inputs stay: without that they
    compute something else."""
    if not any(map(fewer_bits, layers_of(model))):
        return model
    made = _copy(model)
    for layer in layers_of(made):
        if isinstance(layer, StoredLayer) and not input_bits(layer):
            layer.keep_floats()
    return made
