"""The activations of `tvmlayers` as PyTorch computes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "leaky_relu": partial(functional.leaky_relu, negative_slope=0.2),
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "hard_sigmoid": functional.hardsigmoid,
    "hard_silu": functional.hardswish,
    "exponential": torch.exp,
    # from its threshold on PyTorch gives x itself, which at 20 float64 tells apart
    "softplus": partial(functional.softplus, threshold=40),
    "softmax": partial(torch.softmax, dim=-1),
    "log_softmax": partial(torch.log_softmax, dim=-1),
    **{name: getattr(torch, name) for name in ("relu", "sigmoid", "tanh")},
    **{
        name: getattr(functional, name)
        for name in ("relu6", "elu", "selu", "gelu", "silu", "softsign", "mish")
    },
}
