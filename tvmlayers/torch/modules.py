"""`torch.nn`'s Linear, Embedding and EmbeddingBag, computed by compiled code where it can.

They are PyTorch's own classes with another forward: parameters, their names, initialisation,
copies, pickles and state dicts are PyTorch's. Compiled code takes over for contiguous float32 or
float64 tensors of the CPU: tables whether autograd follows or not, see `gradients`, and a Linear
where it does not. Everything else PyTorch computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tvmlayers.errors import ConfigError
from tvmlayers.layers.activations import canonical
from tvmlayers.torch import calls, plain
from tvmlayers.torch.following import Trained
from tvmlayers.torch.gradients import Lookup, looked_up
from tvmlayers.torch.kernels import Packed, runnable


class Compilable:
    """What the modules here have beside those of PyTorch.

    target: the CPU that they are compiled for, a name of `tvmlayers targets`.
    """

    target: str = "native"
    _packed: Packed | None = None

    def _aim(self, target: str) -> None:
        """Set the target; TargetError where this machine cannot run its code."""
        runnable(target)
        self.target = target


class Linear(Compilable, nn.Linear):  # type: ignore[misc]
    """`torch.nn.Linear` with an activation: act(x @ weight.T + bias).

    x: (*, in_features) float32 or float64; the result is (*, out_features) of its dtype.
    activation: a name of `tvmlayers`' activations, with Keras's constants; computed in the same
        pass. The other arguments are PyTorch's.
    """

    activation: str = "linear"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: str | None = None,
        target: str = "native",
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        named = canonical(activation)
        if not isinstance(named, str):
            raise ConfigError(f"activation= is the name of one, got {activation!r}")
        self.activation = named
        self._aim(target)

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            if plain.is_traceable((input, self.weight, self.bias)):
                traced: Tensor = torch.ops.tvmlayers.linear(
                    input, self.weight, self.bias, self.activation, self.target
                )
                return traced
        elif plain.is_eager() and "bias" in self._parameters:
            weight, bias = self._parameters.get("weight"), self._parameters["bias"]
            made = calls.linear(self, input, weight, bias, self.activation, self.target)
            if made is not None:
                return made
        return plain.linear(input, self.weight, self.bias, self.activation)

    def extra_repr(self) -> str:
        own = "" if self.activation == "linear" else f", activation={self.activation!r}"
        return f"{super().extra_repr()}{own}"


class Embedding(Trained, Compilable, nn.Embedding):  # type: ignore[misc]
    """`torch.nn.Embedding`: indices (*) int32 or int64 -> rows (*, embedding_dim).

    The arguments are PyTorch's. The table is read where PyTorch keeps it. With `max_norm`, which
    changes the table, PyTorch computes, and while autograd follows with `sparse` or
    `scale_grad_by_freq`.
    optimizer: of `tl.optimizers`, which the table follows in the backward pass, see `Trained`.
    """

    def __init__(
        self, *args: Any, target: str = "native", optimizer: object = None, **named: Any
    ) -> None:
        super().__init__(*args, **named)
        self._aim(target)
        self._follow(optimizer)

    def forward(self, input: Tensor) -> Tensor:
        if self._follows():
            followed: Tensor = self._following()(self, input)
            return followed
        if self.max_norm is None:
            if torch.compiler.is_compiling():
                if plain.is_traceable((self.weight,), input):
                    traced: Tensor = torch.ops.tvmlayers.embedding(input, self.weight, self.target)
                    return traced
            elif plain.is_eager():
                made = self._looked_up(input)
                if made is not None:
                    return made
        result: Tensor = super().forward(input)
        return result

    def _looked_up(self, input: Tensor) -> Tensor | None:
        """What compiled code does, with its gradient; None where PyTorch is to do all."""
        weight = self._parameters.get("weight")
        is_trained = plain.needs_grad((weight,))
        if is_trained and (self.scale_grad_by_freq or self.sparse):
            return None
        made = calls.embedding(self, input, weight, self.target)
        if made is None or not is_trained:
            return made
        lookup = Lookup(self.target, self.padding_idx)
        return looked_up(made, weight, None, input, None, lookup)

    def _followed(self, input: Tensor) -> Tensor:
        weight = self.weight
        made = calls.embedding(self, input, weight, self.target)
        if made is None:
            with torch.no_grad():
                made = super().forward(input)
        lookup = Lookup(self.target, self.padding_idx, trained=self)
        return looked_up(made, weight, None, input, None, lookup)


class EmbeddingBag(Trained, Compilable, nn.EmbeddingBag):  # type: ignore[misc]
    """`torch.nn.EmbeddingBag`: indices (batch, length), or (total,) with offsets -> (batch, dim).

    The arguments are PyTorch's. The table is read where PyTorch keeps it. With `max_norm`, which
    changes the table, PyTorch computes, and while autograd follows with mode "max",
    `sparse` or `scale_grad_by_freq`. A NaN in a row makes a bag of "max" NaN, where PyTorch
    keeps one of a bag's first row only.
    optimizer: of `tl.optimizers`, which the table follows in the backward pass, see `Trained`.
    """

    def __init__(
        self, *args: Any, target: str = "native", optimizer: object = None, **named: Any
    ) -> None:
        super().__init__(*args, **named)
        self._aim(target)
        self._follow(optimizer)

    def forward(
        self,
        input: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        given = input, offsets, per_sample_weights
        if self._follows():
            followed: Tensor = self._following()(self, *given)
            return followed
        if self.max_norm is None:
            options = self.mode, self.include_last_offset, self.padding_idx, self.target
            if torch.compiler.is_compiling():
                if plain.is_traceable((self.weight, per_sample_weights), input, offsets):
                    traced: Tensor = torch.ops.tvmlayers.embedding_bag(
                        input, self.weight, offsets, per_sample_weights, *options
                    )
                    return traced
            elif plain.is_eager():
                made = self._looked_up(*given)
                if made is not None:
                    return made
        result: Tensor = super().forward(*given)
        return result

    def _call(self, input: Tensor, offsets: Tensor | None, factors: Tensor | None) -> Tensor | None:
        options = self.mode, self.include_last_offset, self.padding_idx, self.target
        weight = self._parameters.get("weight")
        return calls.bag(self, input, weight, offsets, factors, *options)

    def _lookup(self, trained: Trained | None = None) -> Lookup:
        return Lookup(self.target, self.padding_idx, self.mode, self.include_last_offset, trained)

    def _looked_up(
        self, input: Tensor, offsets: Tensor | None, factors: Tensor | None
    ) -> Tensor | None:
        """What compiled code does, with its gradient; None where PyTorch is to do all."""
        weight = self._parameters.get("weight")
        is_trained = plain.needs_grad((weight, factors))
        if is_trained and (self.scale_grad_by_freq or self.sparse or self.mode == "max"):
            return None
        made = self._call(input, offsets, factors)
        if made is None or not is_trained:
            return made
        return looked_up(made, weight, factors, input, offsets, self._lookup())

    def _followed(self, input: Tensor, offsets: Tensor | None, factors: Tensor | None) -> Tensor:
        made = self._call(input, offsets, factors)
        if made is None:
            with torch.no_grad():
                made = super().forward(input, offsets, factors)
        return looked_up(made, self.weight, factors, input, offsets, self._lookup(self))
