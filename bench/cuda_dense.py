"""Dense layers on the GPU here, beside `torch.nn.functional.linear` and its compiled form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def compiled(function: Function, **options: Any) -> Function:
    """The function by torch.compile, for the shapes of one case; an error where it gives up.

    What earlier cases compiled is dropped: beyond a limit of shapes the same code would be run
    eagerly, and from the second shape on be compiled for any.
    """
    import torch
    import torch._dynamo.config

    torch._dynamo.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    made: Function = torch.compile(function, dynamic=False, **options)
    return made
