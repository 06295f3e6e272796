"""`from_torch`: the graph of a program, read backwards for what is needed, then built forwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmlayers.interop.building import Builder, Problem, Unsupported
from tvmlayers.interop.torch.calls import Call, Plan, constants_of, dtype_of, shape_of
from tvmlayers.interop.torch.context import Context
from tvmlayers.interop.torch.program import program_of
from tvmlayers.interop.torch.table import OPERATORS
from tvmlayers.layers import Input, Model
from tvmlayers.layers.graph import SymbolicTensor
from tvmlayers.layers.names import snake_case

if TYPE_CHECKING:
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
    used twice is one layer. ModelImportError names every operator or option that no layer here
    computes, with its place in the module's source. A program is read by PyTorch's own reader:
    open only files that you trust.
    """
    program, is_free = program_of(module, example, dynamic_shapes)
    if name is None:
        own = Path(module).stem if isinstance(module, (str, Path)) else type(module).__name__
        name = snake_case(own)
    return _Reading(program, is_free).model(name)


class _Reading:
    """One program on its way to a model."""

    def __init__(self, program: ExportedProgram, is_free: bool) -> None:
        self.program, self.is_free = program, is_free
        self.builder = Builder("PyTorch")
        constants, names = constants_of(program)
        self.context = Context(self.builder, constants, names)

    def model(self, name: str) -> Model:
        outputs = self._outputs()
        plans = self._plans(outputs)
        self.builder.finish()
        inputs = self._inputs()
        tensors: dict[Node, SymbolicTensor] = dict(inputs)
        for node, plan in reversed(plans.items()):
            if all(taken in tensors for taken in plan.takes):
                call = Call(node, self.context.constants)
                with self.builder.part(call.operator, call.where):
                    tensors[node] = plan.make(*(tensors[taken] for taken in plan.takes))
        self.builder.finish()
        return Model(list(inputs.values()), [tensors[node] for node in outputs], name=name)

    def _outputs(self) -> list[Node]:
        """The nodes whose tensors forward returns."""
        (end,) = (node for node in self.program.graph.nodes if node.op == "output")
        outputs: list[Node] = []
        specs = self.program.graph_signature.output_specs
        for spec, node in zip(specs, end.args[0], strict=True):
            if spec.kind.name != "USER_OUTPUT":
                why = "forward changes it, which a compiled model cannot"
                self.builder.problems.append(Problem(f"{spec.target}", why))
            elif not hasattr(node, "meta") or node in self.context.constants:
                why = "it does not depend on the inputs"
                self.builder.problems.append(Problem(f"the output {node}", why))
            else:
                outputs.append(node)
        return outputs

    def _plans(self, outputs: list[Node]) -> dict[Node, Plan]:
        """A plan for each call that the outputs need, last first."""
        needed = set(outputs)
        plans: dict[Node, Plan] = {}
        for node in reversed(self.program.graph.nodes):
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

    def _inputs(self) -> dict[Node, SymbolicTensor]:
        """An Input for each tensor that forward takes, under its name there."""
        kinds = {s.arg.name: s.kind.name for s in self.program.graph_signature.input_specs}
        inputs: dict[Node, SymbolicTensor] = {}
        for node in self.program.graph.nodes:
            is_tensor = hasattr(node.meta.get("val"), "shape")
            if node.op != "placeholder" or kinds[node.name] != "USER_INPUT" or not is_tensor:
                continue
            with self.builder.part(f"the input {node.name}"):
                inputs[node] = self._input(node)
        return inputs

    def _input(self, node: Node) -> SymbolicTensor:
        shape = shape_of(node)
        sizes = tuple(size if isinstance(size, int) else None for size in shape)
        if not sizes:
            raise Unsupported("a scalar has no batch axis")
        is_flat = node in self.context.flat
        if self.is_free and not is_flat and sizes[0] is not None:
            raise Unsupported(
                f"forward works for {sizes[0]} samples only: its first axis must be free"
            )
        if is_flat:
            sizes = (None,)
        return Input(
            sizes if is_flat else sizes[1:],
            dtype=dtype_of(node),
            name=None if node.name == "out" else node.name,
            batch=not is_flat,
        )
