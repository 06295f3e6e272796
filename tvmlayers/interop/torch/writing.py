"""`to_torch`: a model as a `torch.fx.GraphModule`."""

from __future__ import annotations

import builtins
import keyword
import re
from typing import TYPE_CHECKING, Any

from tvmlayers.errors import MissingDependencyError
from tvmlayers.interop.exporting import exported
from tvmlayers.layers import Model
from tvmlayers.layers.stored import in_floats

if TYPE_CHECKING:
    from torch.fx import GraphModule


_OF_FX = {"NoneType", "device", "fx_pytree", "inf", "nan", "pytree", "self", "torch"}
"""What torch.fx means by these names in a graph."""


def to_torch(model: Model) -> GraphModule:
    """The PyTorch module that computes what a model computes: see `Model.to_torch`."""
    try:
        from torch import fx
    except ImportError as error:
        raise MissingDependencyError(
            "to_torch needs PyTorch, which is not installed: pip install 'tvmlayers[torch]'"
        ) from error
    from tvmlayers.interop.torch.written import Writer

    model = in_floats(model.ready())
    writer = Writer()
    taken: set[str] = set()
    inputs = {id(t): writer.input(_argument(t.name, taken)) for t in model.inputs}
    outputs = exported(model, "PyTorch", inputs, writer.rows())
    nodes: Any = tuple(output.node for output in outputs)
    writer.graph.output(nodes if len(nodes) > 1 else nodes[0])
    made = fx.GraphModule(writer.parts, writer.graph, re.sub(r"\W", "_", model.name))
    made.eval()
    return made


def _argument(name: str, taken: set[str]) -> str:
    """name as one of forward's arguments."""
    word = re.sub(r"\W", "_", name)
    if word[0].isdigit():
        word = f"_{word}"
    while word in taken or word in _OF_FX or hasattr(builtins, word) or keyword.iskeyword(word):
        word += "_0"
    taken.add(word)
    return word
