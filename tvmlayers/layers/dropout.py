"""Dropout: nothing at inference; kept so that training code can be read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvmlayers.errors import ConfigError
from tvmlayers.layers.base import Layer
from tvmlayers.numeric import real


class Dropout(Layer):
    """Maps its input to itself. rate: the share dropped in training, 0 to 1."""

    keeps_time_axis = True
    is_view = True

    def __init__(
        self,
        rate: float,
        *,
        name: str | None = None,
        seed: int | None = None,
        input_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__(name=name, seed=seed, input_shape=input_shape)
        self.rate = real(self.kind, "rate", rate)
        if not 0 <= self.rate <= 1:
            raise ConfigError(f"Dropout expected a rate in 0..1, got {rate!r}")

    def row_axes(self) -> int | None:
        return 0

    def config(self) -> dict[str, Any]:
        return {"rate": self.rate}
