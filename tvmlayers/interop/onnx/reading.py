"""`from_onnx`: a checked graph, node by node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvmlayers import layers
from tvmlayers.errors import ConfigError, MissingDependencyError, ModelImportError
from tvmlayers.interop.building import Builder, Unsupported
from tvmlayers.interop.onnx.calls import Call, Value, array_of
from tvmlayers.interop.onnx.table import OPERATORS
from tvmlayers.layers.graph import SymbolicTensor

OPSETS = range(11, 25)


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
    """A graph on its way to a model."""

    def __init__(self, proto: Any) -> None:
        self.proto = proto
        self.builder = Builder("ONNX")
        self.values: dict[str, Value] = {}
        self.made: dict[str, tuple[str, list[Value]]] = {}

    def model(self, name: str) -> layers.Model:
        from onnx.helper import get_attribute_value

        graph = self.proto.graph
        opsets = {row.domain: row.version for row in self.proto.opset_import}
        if (opset := opsets.get("", opsets.get("ai.onnx", 0))) not in OPSETS:
            raise ModelImportError(
                f"from_onnx reads opsets {OPSETS[0]} to {OPSETS[-1]}, this model has {opset}"
            )
        for tensor in graph.initializer:
            self.values[tensor.name] = array_of(tensor)
        inputs = []
        for given in graph.input:
            if given.name not in self.values:
                with self.builder.part(f"the input {given.name}"):
                    self.values[given.name] = tensor = _input(given)
                    inputs.append(tensor)
        for node in graph.node:
            attributes = {a.name: get_attribute_value(a) for a in node.attribute}
            values = [self.values.get(name) if name else None for name in node.input]
            label = node.name or node.output[0]
            with self.builder.part(node.op_type, f"node {label!r}"):
                row = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
                if row is None:
                    hint = "; import the PyTorch module by from_torch" * (node.op_type == "Loop")
                    raise Unsupported(f"no layer here computes it{hint}")
                present = [v for n, v in zip(node.input, values, strict=True) if n]
                if any(value is None for value in present):
                    continue  # what it takes is a problem already
                call = Call(self.builder, label, values, list(node.input), attributes, self.made)
                self.values[node.output[0]] = row(call)
                self.made[node.output[0]] = (node.op_type, values)
        self.builder.finish()
        outputs = [self.values.get(output.name) for output in graph.output]
        if not all(isinstance(output, SymbolicTensor) for output in outputs):
            raise ModelImportError("an output of this ONNX model does not depend on its inputs")
        return layers.Model(inputs, outputs, name=name.replace("/", "."))  # type: ignore[arg-type]


def _input(given: Any) -> SymbolicTensor:
    from onnx.helper import tensor_dtype_to_np_dtype

    kind = given.type.tensor_type
    if not kind.HasField("shape") or not kind.shape.dim:
        raise Unsupported("it has no batch axis")
    sizes = [axis.dim_value or None for axis in kind.shape.dim[1:]]
    name = given.name.replace("/", ".")
    dtype = tensor_dtype_to_np_dtype(kind.elem_type).name
    return layers.Input(sizes, dtype=dtype, name=None if name == "out" else name)
