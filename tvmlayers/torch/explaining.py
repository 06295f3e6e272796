"""`explain`: what the backend would take of a network, and what it would leave and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from tvmlayers.torch.compiling import Options, Taken, compile_graph


@dataclass(frozen=True)
class Explanation:
    """graphs: how many Dynamo made of the network, 1 where nothing breaks it.

    taken: the layers of each part that compiled code computes, in order; left: what PyTorch
    computes, with its place and the reason.
    """

    graphs: int
    taken: list[list[str]]
    left: list[str]

    def __str__(self) -> str:
        lines = [f"{self.graphs} graph{'s' * (self.graphs != 1)}"]
        if not self.graphs:
            lines.append("left: everything, as PyTorch's compiler follows none of it")
        lines += [f"taken: {', '.join(layers)}" for layers in self.taken]
        lines += [f"left: {problem}" for problem in self.left]
        return "\n".join(lines)


def explain(module: nn.Module, example: object, target: str = "native") -> Explanation:
    """What `torch.compile(module, backend="tvmlayers")` takes and leaves; runs the module once.

    example: a tensor as forward takes it, a tuple of them, or a mapping of forward's arguments. It
    is called without autograd, in the mode, training or eval, that it is in.
    """
    found: list[Taken] = []

    def collect(graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        run, taken = compile_graph(graph, inputs, Options(target=target))
        found.append(taken)
        return run

    with torch.no_grad():
        compiled = torch.compile(module, backend=collect)
        if isinstance(example, Mapping):
            compiled(**example)
        else:
            compiled(*(example if isinstance(example, tuple) else (example,)))
    parts = [part for taken in found for part in taken.parts]
    refused = [f"a part of {part.operators}: {part.why}" for part in parts if part.why is not None]
    return Explanation(
        len(found),
        [part.layers for part in parts if part.why is None],
        [str(problem) for taken in found for problem in taken.left] + refused,
    )
