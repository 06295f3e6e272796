"""From the graph that Dynamo has captured to one of ATen operators, as `torch.export` writes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx

STATIC = "tvmlayers_static"
"""In the meta of a placeholder: the name of the parameter or the buffer that it represents."""

_ROOT = re.compile(r"L\['\w+'\]\.?|_modules\.|_modules\['([^']*)'\]")
_PARAMETER = re.compile(r"^l_\w*?_(?:parameters|buffers)_(\w+?)_?$")


def traced(graph: GraphModule, inputs: Sequence[Any]) -> GraphModule:
    """The same computation in ATen operators, whole ones such as aten.linear, shapes in their meta.

    It takes the same arguments. Raises whatever the operators do.
    """
    placeholders = graph.graph.find_nodes(op="placeholder")
    fakes = [node.meta["example_value"] for node in placeholders]
    modes = [fake.fake_mode for fake in fakes if isinstance(fake, FakeTensor)]
    with ExitStack() as entered:
        if modes:
            entered.enter_context(modes[0])
        entered.enter_context(torch.fx.traceback.preserve_node_meta())
        entered.enter_context(torch.no_grad())
        made: GraphModule = make_fx(_Run(graph).run, pre_dispatch=True)(*fakes)
    for node, before, given in zip(
        made.graph.find_nodes(op="placeholder"), placeholders, inputs, strict=True
    ):
        if isinstance(given, torch.nn.Parameter) or hasattr(given, "_dynamo_static_input_type"):
            node.meta[STATIC] = _parameter(before.name)
    for node in made.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack:
            node.meta["nn_module_stack"] = {
                key: (_ROOT.sub(lambda found: found[1] or "", path).strip("."), kind)
                for key, (path, kind) in stack.items()
            }
    _without_mutation(made)
    made.graph.eliminate_dead_code()
    made.recompile()
    return made


class _Run(Interpreter):  # type: ignore[misc]
    """Runs the graph; a float that Dynamo passes as a tensor stays the symbol that it is."""

    def run_node(self, n: Node) -> Any:
        symbol = n.meta.get("example_value")
        if n.op == "call_method" and n.target == "item" and isinstance(symbol, torch.SymFloat):
            return symbol
        return super().run_node(n)


def _parameter(name: str) -> str:
    """The name of a parameter, of what Dynamo calls its placeholder."""
    found = _PARAMETER.match(name)
    return name if found is None else found[1]


def _without_mutation(graph: GraphModule) -> None:
    """Replace operators such as relu_ where nothing else reads the tensor that they change."""
    for node in graph.graph.nodes:
        if node.op != "call_function" or not is_mutable(node):
            continue
        name, changed = node.target._schema.name, node.args[0] if node.args else None
        packet = getattr(torch.ops.aten, name.removeprefix("aten::").removesuffix("_"), None)
        overload = getattr(packet, node.target._overloadname, None)
        if overload is not None and name.endswith("_") and _is_private(changed, node):
            node.target = overload


def is_mutable(node: Node) -> bool:
    """Whether an operator changes one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def _is_private(changed: Any, user: Node) -> bool:
    """Whether a tensor was made by an operator for this user alone, and is no view of another."""
    if not isinstance(changed, Node) or changed.op != "call_function":
        return False
    schema = getattr(changed.target, "_schema", None)
    is_fresh = schema is not None and all(made.alias_info is None for made in schema.returns)
    return is_fresh and list(changed.users) == [user] and isinstance(changed.meta["val"], Tensor)
