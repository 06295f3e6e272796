"""Tables that their optimiser updates in the backward pass: the states and the update itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from tvmlayers.codegen.training.alone import Function, needs_pairs, table_function
from tvmlayers.errors import ConfigError
from tvmlayers.numeric import not_negative_real
from tvmlayers.runtime.threads import count
from tvmlayers.torch import plain
from tvmlayers.torch.kernels import lock, runnable
from tvmlayers.training import optimizers
from tvmlayers.training.optimizers import Optimizer

PREFIX = "optimizer_"
ITERATIONS = f"{PREFIX}iterations"


class Trained(nn.Module):  # type: ignore[misc]
    """A table that may have an optimiser of its own.

    Its states are buffers, `optimizer_iterations` and one for each state of the optimiser such as
    `optimizer_accumulator`, so that a state dict has them.
    """

    optimizer: Optimizer | None = None
    _learning_rate: float | None = None
    _followed: Callable[..., Tensor]

    def _follow(self, optimizer: object) -> None:
        """Let the table follow an optimiser; ConfigError for options that do not go with one."""
        if optimizer is None:
            return
        wanted = optimizers.get(optimizer)
        options = {"max_norm": None, "scale_grad_by_freq": False, "sparse": False, "mode": None}
        for name, none in options.items():
            value = getattr(self, name, none)
            if value != none and (name != "mode" or value == "max"):
                raise ConfigError(
                    f"a table with optimizer= takes no {name}={value!r}: leave one of the two out"
                )
        self.optimizer = wanted
        weight: Tensor = self.weight
        self.register_buffer(ITERATIONS, torch.zeros((), dtype=torch.int64))
        begin = getattr(wanted, "initial_accumulator_value", 0.0)
        for name, shape in wanted.state_shapes(tuple(weight.shape)).items():
            state = weight.new_full(shape, begin, requires_grad=False)
            self.register_buffer(f"{PREFIX}{name}", state)

    @property
    def learning_rate(self) -> float:
        """Of the next updates; begins as the optimiser's. ConfigError for what is no rate."""
        if self.optimizer is None:
            raise ConfigError("a table without optimizer= has no learning rate of its own")
        return self.optimizer.learning_rate if self._learning_rate is None else self._learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        if self.optimizer is None:
            raise ConfigError("a table without optimizer= has no learning rate of its own")
        self._learning_rate = not_negative_real("a table", "learning_rate", rate)

    def _follows(self) -> bool:
        """Whether a call now is one that the table is to follow."""
        return self.optimizer is not None and plain.needs_grad((self.weight,))

    def _following(self) -> Callable[..., Tensor]:
        """What computes such a call; a graph of `torch.compile` is broken there."""
        made: Callable[..., Tensor] = type(self)._followed
        return torch.compiler.disable(made) if torch.compiler.is_compiling() else made

    def _check(self) -> None:
        """ConfigError where its tensors are not such that compiled code can update them."""
        weight = self.weight
        states = [getattr(self, name) for name in _slots(self.optimizer)]
        if not plain.is_weight(weight) or not all(
            plain.is_plain(state, (weight.dtype,)) for state in states
        ):
            raise ConfigError(
                "a table with optimizer= is trained as contiguous float32 or float64 on the CPU, "
                f"got {weight.dtype} on {weight.device}, with states "
                f"{[str(state.dtype) for state in states]}: move all of the module with .to(), or "
                "make it without optimizer="
            )

    def _update(self, indices: Tensor, rows: Tensor, skipped: int | None) -> None:
        """Follow a gradient, as `table_function` takes it."""
        self._check()
        assert self.optimizer is not None
        weight, iterations = self.weight, getattr(self, ITERATIONS)
        states = [getattr(self, name) for name in _slots(self.optimizer)]
        iterations += 1
        follow(
            weight, indices, rows, skipped, self.target, self.optimizer, states,
            self.learning_rate, int(iterations),
        )  # fmt: skip
        for changed in (weight, *states):
            torch.autograd.graph.increment_version(changed)


def _slots(optimizer: Optimizer | None) -> list[str]:
    """The names of the buffers of its states."""
    assert optimizer is not None
    return [f"{PREFIX}{name}" for name in optimizer.state]


def follow(
    table: Tensor,
    indices: Tensor,
    rows: Tensor,
    skipped: int | None,
    target: str,
    optimizer: Optimizer,
    states: Sequence[Tensor],
    rate: float,
    step: int,
) -> None:
    """One step of an optimiser on the rows of a table, in place; see `table_function`."""
    if not indices.numel() and not optimizer.moves_unused:
        return
    shape, dtypes = (table.shape[0], table.shape[1]), (table.dtype, indices.dtype)
    function = _function(shape, dtypes, replace(optimizer, learning_rate=0.0), skipped, target)
    room = indices.numel() if needs_pairs(optimizer) else 0
    pairs = torch.empty((2, room), dtype=torch.int64)
    threads = count(torch.get_num_threads())
    function(indices, rows, table.detach(), *states, *pairs, rate, step, threads)


@cache
def _function(
    shape: tuple[int, int],
    dtypes: tuple[torch.dtype, torch.dtype],
    optimizer: Optimizer,
    skipped: int | None,
    target: str,
) -> Function:
    """Compiled when first asked for."""
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    with lock:
        return table_function(*shape, optimizer, names[0], names[1], skipped, runnable(target))
