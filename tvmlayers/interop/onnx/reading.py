"""`from_onnx`: a checked graph, from its outputs on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tvmlayers import layers
from tvmlayers.errors import ConfigError, MissingDependencyError, ModelImportError
from tvmlayers.interop.building import Builder, Unsupported
from tvmlayers.interop.onnx.calls import Call, Failed, Graph, Later, dtype_of
from tvmlayers.interop.onnx.constants import constants_of
from tvmlayers.interop.onnx.means import masked_tables
from tvmlayers.interop.onnx.table import CONTRIBUTED, OPERATORS
from tvmlayers.layers.graph import SymbolicTensor

OPSETS = range(11, 25)
ROWS = {"": OPERATORS, "ai.onnx": OPERATORS, "com.microsoft": CONTRIBUTED}
"""The tables of operators by domain."""

_STATIC = (
    "inputs rounded with fixed scales are not read: import the float model, and tl.quantize it"
)
HINTS = {
    "Loop": "import the PyTorch module by from_torch",
    "QuantizeLinear": _STATIC,
    "QLinearMatMul": _STATIC,
}
"""What to do about operators that are not read."""


def from_onnx(model: object, *, name: str | None = None) -> layers.Model:
    """The Model that an ONNX model computes, with its weights.

    model: the path of an .onnx file, or an `onnx.ModelProto`. The first axis of each input is the
        batch, whatever length the file gives it; other axes without a length are free.

    External data is read from the model's own folder only. ModelImportError names every operator
    and option that is not supported, and what is wrong with a damaged file. An EmbeddingBag that
    PyTorch exported is a Loop: import the module itself by `from_torch`.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError(
            "from_onnx needs the onnx package, which is not installed: "
            "pip install 'tvmlayers[onnx]'"
        ) from error
    if isinstance(model, (str, Path)):
        path = Path(model)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        name = name or path.stem
        try:
            # The checker refuses cycles, missing parts and external data outside of the folder.
            onnx.checker.check_model(str(path))
            model = onnx.load(path)
        except Exception as error:  # protobuf, the checker and the reader each have their own
            raise ModelImportError(f"{path} is no ONNX model, or a damaged one: {error}") from error
    elif isinstance(model, onnx.ModelProto):
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:
            raise ModelImportError(f"this ONNX model is damaged: {error}") from error
    else:
        raise ConfigError(
            f"from_onnx expected a path or an onnx.ModelProto, got {type(model).__name__}"
        )
    return _Reading(model).model(name or "model")


class _Reading:
    """A graph on its way to a model: each output asks for what it is made of."""

    def __init__(self, proto: Any) -> None:
        opsets = {row.domain: row.version for row in proto.opset_import}
        if (opset := opsets.get("", opsets.get("ai.onnx", 0))) not in OPSETS:
            raise ModelImportError(
                f"from_onnx reads opsets {OPSETS[0]} to {OPSETS[-1]}, this model has {opset}"
            )
        self.proto = proto.graph
        self.builder = Builder("ONNX")
        self.tensors: dict[str, SymbolicTensor | None] = {}
        nodes = {name: node for node in self.proto.node for name in node.output if name}
        constants = constants_of(self.proto, opset)
        readers = Counter(name for node in self.proto.node for name in node.input)
        sums = _sums(self.proto)
        self.graph = Graph(self.builder, nodes, constants, self.tensors, sums, readers)
        calls = [Call(self.graph, node) for node in self.proto.node]
        self.graph.masked.update(masked_tables(calls))

    def model(self, name: str) -> layers.Model:
        inputs = []
        for given in self.proto.input:
            if given.name not in self.graph.constants:
                self.tensors[given.name] = None
                with self.builder.input(given.name, is_used=given.name in self.graph.readers):
                    self.tensors[given.name] = tensor = _input(given)
                    inputs.append(tensor)
        waiting = [output.name for output in reversed(self.proto.output)]
        while waiting:
            waiting += self._make(waiting.pop())
        self.builder.finish()
        outputs = [self.tensors.get(output.name) for output in self.proto.output]
        if not all(isinstance(output, SymbolicTensor) for output in outputs):
            raise ModelImportError("an output of this ONNX model does not depend on its inputs")
        return layers.Model(inputs, outputs, name=name.replace("/", "."))  # type: ignore[arg-type]

    def _make(self, wanted: str) -> list[str]:
        """Make a tensor and all that its row asks for; what else is to be looked at for a whole
        list of problems."""
        more: list[str] = []
        stack = {wanted: None}  # in order
        while stack:
            name = next(reversed(stack))
            if name in self.tensors or name in self.graph.constants:
                del stack[name]
                continue
            node = self.graph.nodes.get(name)
            if node is None:
                raise ModelImportError(f"no node of this ONNX model gives {name!r}")
            self.tensors[name] = None
            with self.builder.part(node.op_type, f"node {node.name or node.output[0]!r}"):
                more += node.input
                try:
                    self.tensors[name] = self._row(node, name)
                    del more[len(more) - len(node.input) :]
                except Later as later:
                    del self.tensors[name], more[len(more) - len(node.input) :]
                    if later.name in stack:
                        raise ModelImportError(
                            f"the ONNX model needs {later.name!r} to compute it"
                        ) from later
                    stack[later.name] = None
                except Failed:
                    pass  # what it takes is a problem already
        return [name for name in more if name]

    def _row(self, node: Any, name: str) -> SymbolicTensor:
        row = ROWS.get(node.domain, {}).get(node.op_type)
        if row is None:
            hint = HINTS.get(node.op_type, "")
            raise Unsupported(f"no layer here computes it{hint and '; '}{hint}")
        if name != node.output[0]:
            raise Unsupported("only its first result can be used")
        return row(Call(self.graph, node))


def _sums(graph: Any) -> dict[str, tuple[str, str]]:
    """The two inputs of each Add, by what it gives."""
    adds = (node for node in graph.node if node.op_type == "Add" and len(node.input) == 2)
    return {node.output[0]: tuple(node.input) for node in adds}


def _input(given: Any) -> SymbolicTensor:
    kind = given.type.tensor_type
    if not kind.HasField("shape") or not kind.shape.dim:
        raise Unsupported("it has no batch axis")
    sizes = [axis.dim_value or None for axis in kind.shape.dim[1:]]
    name = given.name.replace("/", ".")
    return layers.Input(sizes, dtype=dtype_of(kind.elem_type), name=None if name == "out" else name)
