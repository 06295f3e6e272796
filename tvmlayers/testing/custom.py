"""An activation that the user wrote: a Python callable on a tensor expression.

PyTorch cannot run a tensor expression, so TVM evaluates it, in float64 and by itself: what is
checked is that the compiled model applies it, in its own dtype, to the right values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvmlayers.errors import ConfigError
from tvmlayers.foreign import is_refusal
from tvmlayers.testing.bounds import Bounded, Rounding

if TYPE_CHECKING:
    from torch import Tensor


def custom_step(
    activation: Callable[[Any], Any], label: str
) -> Callable[[Bounded, Rounding], Bounded]:
    """The step of a callable; its slope is measured, as nothing is known of it."""
    function = _evaluator(activation, label)

    def step(x: Bounded, rounding: Rounding) -> Bounded:
        value = function(x.value)
        moved = sum((function(x.value + way * x.bound) - value).abs() for way in (-1, 1))
        own = rounding.function * (value.abs() + x.value.abs() + 1.0)
        return Bounded(value, moved + own)

    return step


def _evaluator(activation: Callable[[Any], Any], label: str) -> Callable[[Tensor], Tensor]:
    """The callable as a function of float64 tensors of any shape."""
    import torch
    import tvm
    from tvm import te

    x = te.placeholder((te.var("n", "int64"),), "float64", name="x")
    try:
        out = te.compute(x.shape, lambda i: activation(x[i]), name="out")
        compiled = tvm.compile(te.create_prim_func([x, out]), target="llvm")
    except Exception as error:
        if not is_refusal(error):
            raise
        raise ConfigError(
            f"the activation {label!r} cannot be evaluated in float64, which verifying it takes: "
            f"{error}; make its constants of its argument's dtype"
        ) from error

    def run(values: Tensor) -> Tensor:
        if values.numel() == 0:
            return values.clone()
        given = tvm.runtime.tensor(values.reshape(-1).numpy())  # copied: TVM wants it aligned
        result = tvm.runtime.tensor(torch.empty(values.numel(), dtype=torch.float64).numpy())
        compiled(given, result)
        return torch.from_numpy(result.numpy()).reshape(values.shape)

    return run
