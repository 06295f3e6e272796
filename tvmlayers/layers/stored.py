"""Layers whose largest weight may be kept in fewer bits than they compute in."""

from __future__ import annotations

import re
from math import prod
from typing import Any, ClassVar

import numpy as np

from tvmlayers.errors import ConfigError, DTypeError
from tvmlayers.layers.base import Array, Layer, WeightSpec
from tvmlayers.layers.checks import one_of
from tvmlayers.layers.weights import frozen
from tvmlayers.quantization import KINDS, Form, Kind


class StoredLayer(Layer):
    """A layer that keeps its weight `main` in `form`, as a `quantization.Kind`, or as it is.

    stored: the kind's name; the layer's own dtype where it is kept as it is.
    """

    has_weights = True
    has_groups: ClassVar[bool] = False
    form: ClassVar[Form]
    main: ClassVar[str]

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

    def count_params(self) -> int:
        """As many as of float weights, however they are kept."""
        return sum(prod(spec.shape) for spec in self.float_specs().values())

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "stored": self.stored} if self.is_quantized else config


def fewer_bits(layer: object) -> str:
    """How a layer keeps its largest weight, where that is in fewer bits; else ""."""
    return layer.stored if isinstance(layer, StoredLayer) and layer.is_quantized else ""
