"""`from_torch`: the graph of a program, read backwards for what is needed, then built forwards."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmlayers.interop.building import Builder, Problem, Unsupported
from tvmlayers.interop.torch.calls import Call, Plan, constants_of, dtype_of, shape_of
from tvmlayers.interop.torch.context import Context
from tvmlayers.interop.torch.program import program_of
from tvmlayers.interop.torch.quantized import Fewer
from tvmlayers.interop.torch.table import OPERATORS
from tvmlayers.layers import Input, Model
from tvmlayers.layers.graph import SymbolicTensor
from tvmlayers.layers.names import snake_case

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import Node


def from_torch(
    module: object, example: object = None, *, dynamic_shapes: Any = None, name: str | None = None
) -> Model:
    """The Model that computes what a PyTorch module computes in eval mode, with its weights.

    module: an nn.Module, an ExportedProgram, or the path of a .pt2 file, whose tensors' first
        axis is the batch. The module is left as it was.
    example: a tensor as forward takes it, a tuple of them, or a mapping of forward's arguments;
        only shapes and dtypes matter. Not needed where the module begins with a Linear or an
        EmbeddingBag, or for a program.
    dynamic_shapes: as `torch.export.export` takes it; left out, the first axis of each input is
        free and the others keep the example's lengths.

    Layers are named by their modules' paths. Weights are copied bit by bit, and a module that is
    used twice is one layer. Quantised modules of torch.ao that take and give floats keep codes and
    scales; inputs of a Linear are not rounded. ModelImportError names every operator or option that
    no layer here computes, with its place in the module's source. A program is read by PyTorch's
    own reader: open only files that you trust.
    """
    program, is_free, fewer = program_of(module, example, dynamic_shapes)
    if name is None:
        own = Path(module).stem if isinstance(module, (str, Path)) else type(module).__name__
        name = snake_case(own)
    return Reading(_source(program, is_free, fewer)).model(name)


@dataclass(frozen=True)
class Source:
    """A graph of ATen operators that is to be read.

    inputs: the placeholders of what the user gives; outputs: what is returned; constants, names:
    as `constants_of` gives them, and other names for inputs; is_free: whether the first axis of
    each input has to be free; problems: what is known to be wrong with it; fewer: the arrays of
    weights in fewer bits, by the names of the weights.
    """

    nodes: Sequence[Node]
    inputs: Sequence[Node]
    outputs: Sequence[Any]
    constants: Mapping[Node, Tensor]
    names: Mapping[Node, str]
    is_free: bool = False
    problems: Sequence[Problem] = ()
    fewer: Mapping[str, Fewer] = field(default_factory=dict)


def _source(program: ExportedProgram, is_free: bool, fewer: Mapping[str, Fewer]) -> Source:
    signature = program.graph_signature
    given = {spec.arg.name for spec in signature.input_specs if spec.kind.name == "USER_INPUT"}
    placeholders = program.graph.find_nodes(op="placeholder")
    (end,) = program.graph.find_nodes(op="output")
    outputs: list[Any] = []
    problems: list[Problem] = []
    for spec, node in zip(signature.output_specs, end.args[0], strict=True):
        if spec.kind.name == "USER_OUTPUT":
            outputs.append(node)
        else:
            why = "forward changes it, which a compiled model cannot"
            problems.append(Problem(f"{spec.target}", why))
    inputs = [node for node in placeholders if node.name in given]
    return Source(
        list(program.graph.nodes),
        inputs,
        outputs,
        *constants_of(program),
        is_free,
        problems,
        fewer,
    )


class Reading:
    """One graph on its way to a model."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.builder = Builder("PyTorch")
        self.builder.problems += source.problems
        self.context = Context(self.builder, source.constants, source.names, source.fewer)

    def model(self, name: str) -> Model:
        """The model; ModelImportError where there are problems."""
        outputs = self._outputs()
        plans = self._plans(outputs)
        self.builder.finish()
        inputs = self._inputs(
            {*outputs, *(taken for plan in plans.values() for taken in plan.takes)}
        )
        tensors: dict[Node, SymbolicTensor] = dict(inputs)
        for node, plan in reversed(plans.items()):
            if all(taken in tensors for taken in plan.takes):
                call = Call(node, self.context.constants)
                with self.builder.part(call.operator, call.where):
                    tensors[node] = plan.make(*(tensors[taken] for taken in plan.takes))
        self.builder.finish()
        return Model(list(inputs.values()), [tensors[node] for node in outputs], name=name)

    def plan(self, node: Node) -> Plan:
        """How a call is imported; Unsupported where it is not."""
        return self._plan(Call(node, self.context.constants))

    def _outputs(self) -> list[Node]:
        """The nodes whose tensors are returned."""
        outputs: list[Node] = []
        for node in self.source.outputs:
            if not hasattr(node, "meta") or node in self.context.constants:
                why = "it does not depend on the inputs"
                self.builder.problems.append(Problem(f"the output {node}", why))
            else:
                outputs.append(node)
        return outputs

    def _plans(self, outputs: list[Node]) -> dict[Node, Plan]:
        """A plan for each call that the outputs need, last first."""
        needed = set(outputs)
        plans: dict[Node, Plan] = {}
        for node in reversed(self.source.nodes):
            if node not in needed or node.op != "call_function":
                continue
            call = Call(node, self.context.constants)
            with self.builder.part(call.operator, call.where):
                try:
                    plans[node] = self._plan(call)
                except Unsupported:
                    # What lies behind it is looked at all the same, for a whole list of problems.
                    needed |= {n for n in node.all_input_nodes if n not in self.context.constants}
                    raise
                needed |= set(plans[node].takes)
        self.builder.problems.reverse()
        return plans

    def _plan(self, call: Call) -> Plan:
        row = OPERATORS.get(call.operator)
        if row is None:
            raise Unsupported("no layer here computes it")
        return row(call, self.context)

    def _inputs(self, used: Container[Node]) -> dict[Node, SymbolicTensor]:
        """An Input for each tensor that forward takes, under its name there."""
        inputs: dict[Node, SymbolicTensor] = {}
        for node in self.source.inputs:
            if not hasattr(node.meta.get("val"), "shape"):  # the length of an axis
                continue
            with self.builder.input(node.name, is_used=node in used):
                inputs[node] = self._input(node)
        return inputs

    def _input(self, node: Node) -> SymbolicTensor:
        shape, name = shape_of(node), self.source.names.get(node, node.name)
        sizes = tuple(size if isinstance(size, int) else None for size in shape)
        if not sizes:
            raise Unsupported("a scalar has no batch axis")
        is_flat = node in self.context.flat
        if self.source.is_free and not is_flat and sizes[0] is not None:
            raise Unsupported(
                f"forward works for {sizes[0]} samples only: its first axis must be free"
            )
        if is_flat:
            sizes = (None,)
        return Input(
            sizes if is_flat else sizes[1:],
            dtype=dtype_of(node),
            name=None if name == "out" else name,
            batch=not is_flat,
        )
