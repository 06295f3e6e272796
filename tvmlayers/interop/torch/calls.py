"""A program's graph as the table of operators sees it: calls, sizes, constants and places."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tvmlayers.interop.building import Unsupported
from tvmlayers.layers.graph import SymbolicTensor

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import Node

Size: TypeAlias = int | str
"""The length of an axis; a free one is named by its expression."""

FRAME = re.compile(r'File "([^"]+)", line (\d+), in \S+\n\s*(.*)')


@dataclass(frozen=True)
class Plan:
    """How a call is imported: the nodes whose tensors it takes, and what makes its own of them."""

    takes: tuple[Node, ...]
    make: Callable[..., SymbolicTensor]

    @property
    def changes_nothing(self) -> bool:
        """Whether the result is the tensor that it takes."""
        return self.make is same


def same(x: SymbolicTensor) -> SymbolicTensor:
    """What a call makes that changes nothing."""
    return x


class Call:
    """One call of an operator. `call["dim"]` is an argument by its name in PyTorch's schema."""

    def __init__(self, node: Node, constants: Mapping[Node, Tensor]) -> None:
        self.node = node
        self.constants = constants

    @cached_property
    def operator(self) -> str:
        """The operator's name without its overload, "linear" of aten.linear.default."""
        if self.node.target is operator.getitem:
            return "getitem"
        name = getattr(self.node.target, "_schema", self.node.target)
        return str(getattr(name, "name", name)).removeprefix("aten::")

    @cached_property
    def arguments(self) -> dict[str, Any]:
        schema = self.node.target._schema.arguments
        names = [argument.name for argument in schema]
        defaults = {argument.name: argument.default_value for argument in schema}
        given = dict(zip(names, self.node.args, strict=False))
        return {**defaults, **given, **self.node.kwargs}

    @cached_property
    def first(self) -> Any:
        """The first argument, which is the tensor that most operators work on."""
        return self.node.args[0] if self.node.args else next(iter(self.arguments.values()))

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def constant(self, argument: str) -> Tensor | None:
        """The value of an argument that is known now: a parameter, or made of parameters."""
        return self.constants.get(self.arguments[argument])

    def is_symbolic(self, value: object) -> bool:
        """Whether a value depends on the inputs."""
        return hasattr(value, "meta") and value not in self.constants

    def call_of(self, value: object) -> Call | None:
        """The call that made a value, if one did."""
        if hasattr(value, "op") and value.op == "call_function":
            return Call(value, self.constants)
        return None

    @cached_property
    def shape(self) -> tuple[Size, ...]:
        return shape_of(self.node)

    def need(self, **wanted: object) -> None:
        """Unsupported unless these arguments have these values."""
        for argument, value in wanted.items():
            got = self.arguments[argument]
            if got != value:
                raise Unsupported(f"only {argument}={value!r} is there, not {got!r}")

    @cached_property
    def module(self) -> tuple[str, str]:
        """(path, class) of the innermost module that made the call; the root's path is ""."""
        stack = list((self.node.meta.get("nn_module_stack") or {}).values())
        path, kind = stack[-1] if stack else ("", "")
        return str(path), kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__name__}"

    @cached_property
    def is_torch_module(self) -> bool:
        """Whether a module of torch.nn made the call, so that its path names what it is."""
        path, kind = self.module
        return bool(path) and kind.startswith("torch.nn.")

    @cached_property
    def where(self) -> str:
        """The place of the call in the user's source, with the module that it belongs to."""
        path, kind = self.module
        words = [f"in {path} ({kind.rpartition('.')[2]})"] if path else []
        trace = self.node.meta.get("stack_trace") or ""
        own = [frame for frame in FRAME.findall(trace) if "/torch/" not in frame[0]]
        if own:
            file, line, source = own[-1]
            words.append(f"at {Path(file).name}:{line}, `{source.strip()}`")
        return " ".join(words)


def shape_of(node: Node) -> tuple[Size, ...]:
    """The shape of a node's tensor."""
    sizes = [str(size) for size in node.meta["val"].shape]
    return tuple(int(size) if size.isdigit() else size for size in sizes)


def dtype_of(node: Node) -> str:
    return str(node.meta["val"].dtype).removeprefix("torch.")


def constants_of(program: ExportedProgram) -> tuple[dict[Node, Tensor], dict[Node, str]]:
    """(what does not depend on the inputs, the name of the parameter that each is or begins with).

    Parameters and buffers, and what is made of them alone, such as a transposed weight.
    """
    import torch

    stored = {**program.state_dict, **program.constants}
    sources = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    known: dict[Node, Tensor] = {}
    names: dict[Node, str] = {}
    for node in program.graph.find_nodes(op="placeholder"):
        target = sources[node.name]
        if isinstance(value := stored.get(target), torch.Tensor):
            known[node], names[node] = value, str(target)
    return with_derived(program.graph.nodes, known, names)


def with_derived(
    nodes: Iterable[Node], known: Mapping[Node, Tensor], names: Mapping[Node, str]
) -> tuple[dict[Node, Tensor], dict[Node, str]]:
    """Tensors and their names, and those of the nodes that are computed from them alone."""
    import torch
    from torch.fx import map_arg

    always = torch.ops.aten.tril_indices.default  # the places of a triangle, of no input
    known, names = {node: value.detach() for node, value in known.items()}, dict(names)
    with torch.no_grad():
        for node in nodes:
            read: list[Node] = node.all_input_nodes
            if node.op != "call_function" or not all(leaf in known for leaf in read):
                continue
            if read or node.target is always:
                args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
                made = node.target(*args, **kwargs)
                if isinstance(made, (torch.Tensor, list, tuple)):
                    known[node], names[node] = made, names[read[0]] if read else node.name
    return known, names


def same_storage(tensors: Iterable[Tensor | None]) -> tuple[object, ...]:
    """A key that is equal for tensors which are views of the same numbers."""
    return tuple(
        None
        if tensor is None
        else (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        for tensor in tensors
    )
