"""`to_onnx`: a model as an ONNX file of standard operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvmlayers.errors import MissingDependencyError, ModelExportError
from tvmlayers.files import saving
from tvmlayers.interop.exporting import exported
from tvmlayers.interop.onnx.pen import Writer
from tvmlayers.interop.onnx.written import ROWS
from tvmlayers.layers import Model
from tvmlayers.layers.graph import Symbol, SymbolicTensor

IR_VERSION = 10  # of May 2024; ONNX Runtime reads it since 1.19
LARGEST = 2**31 - 1  # bytes of a protobuf message


def to_onnx(model: Model, path: str | Path) -> None:
    """Write what a model computes: see `Model.to_onnx`."""
    try:
        from onnx import checker, helper
    except ImportError as error:
        raise MissingDependencyError(
            "to_onnx needs the onnx package, which is not installed: pip install 'tvmlayers[onnx]'"
        ) from error
    model.ready()
    names = [layer.name for layer in model.layers]
    writer = Writer([tensor.name for tensor in model.inputs], names)
    inputs = {id(tensor): tensor.name for tensor in model.inputs}
    rows = {kind: writer.bound(row) for kind, row in ROWS.items()}
    outputs = exported(model, "ONNX", inputs, rows)
    graph = helper.make_graph(
        writer.nodes,
        model.name,
        [_value(tensor, tensor.name) for tensor in model.inputs],
        [_value(tensor, name) for tensor, name in zip(model.outputs, outputs, strict=True)],
        list(writer.constants.values()),
    )
    made = helper.make_model(
        graph,
        producer_name="tvmlayers",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", writer.opset)],
    )
    if (size := made.ByteSize()) > LARGEST:
        raise ModelExportError(
            f"model {model.name!r} takes {size:,} bytes as an ONNX file, which holds 2 GiB at most"
        )
    checker.check_model(made, full_check=True)
    with saving(path) as file:
        file.write(made.SerializeToString())


def _value(tensor: SymbolicTensor, name: str) -> Any:
    """An input or output: its dtype, and its axes, of which free ones have names."""
    from onnx import helper

    from tvmlayers.dtypes import numpy_dtype

    kind = helper.np_dtype_to_tensor_dtype(numpy_dtype(tensor.dtype))
    sizes = [axis.name if isinstance(axis, Symbol) else axis for axis in tensor.axes]
    return helper.make_tensor_value_info(name, kind, sizes)
