"""What is known before the model runs: initialisers, and what is computed of them alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tvmlayers.errors import ModelImportError
from tvmlayers.interop.codes import Array

LARGEST = 2**40  # elements that an initialiser may claim
GROWTH, SMALL = 4, 2**20
"""All folded constants have as many elements as the initialisers times the first, and the second: a
file of a few bytes may describe any number of them."""

FOLDED = {
    *(
        "Add",
        "Cast",
        "Concat",
        "DequantizeLinear",
        "Div",
        "Gather",
        "Identity",
        "Mul",
        "Neg",
        "Pow",
        "Reciprocal",
    ),
    *("Reciprocal", "Reshape", "Shape", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose"),
    "Unsqueeze",
}
"""Operators that are computed now where all their inputs are constants."""


def constants_of(graph: Any, opset: int) -> dict[str, Array]:
    """The constants of a graph by name; ModelImportError for damaged ones."""
    known = {tensor.name: array_of(tensor) for tensor in graph.initializer}
    if graph.sparse_initializer:
        raise ModelImportError("sparse initialisers are not read: write them as dense ones")
    room = SMALL + GROWTH * sum(array.size for array in known.values())
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            known[node.output[0]] = _constant(node)
        elif node.op_type in FOLDED and node.input and all(name in known for name in node.input):
            inputs = {name: known[name] for name in node.input}
            made = _folded(node, inputs, opset) if _size(node, inputs) <= room else None
            if made is not None:
                known[node.output[0]] = made
                room -= made.size
    return known


def array_of(tensor: Any) -> Array:
    """The numbers of an initialiser; ModelImportError where they are fewer than its shape says."""
    from onnx import TensorProto, numpy_helper

    if any(size < 0 for size in tensor.dims) or np.prod(tensor.dims, dtype=float) > LARGEST:
        raise ModelImportError(
            f"the initialiser {tensor.name!r} claims a shape {list(tensor.dims)}"
        )
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelImportError(
            f"the initialiser {tensor.name!r} is in another file: pass the path of the model"
        )
    try:
        array: Array = numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelImportError(f"the initialiser {tensor.name!r} is damaged: {error}") from error
    return array


def _constant(node: Any) -> Array:
    from onnx import TensorProto
    from onnx.helper import get_attribute_value

    (value,) = (get_attribute_value(attribute) for attribute in node.attribute)
    return array_of(value) if isinstance(value, TensorProto) else np.asarray(value)


def _folded(node: Any, inputs: Mapping[str, Array], opset: int) -> Array | None:
    """What a node gives of constants; None where it cannot be computed."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    graph = helper.make_graph(
        [node],
        "constant",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
            for name, array in inputs.items()
        ],
        [helper.make_tensor_value_info(node.output[0], 0, None)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            (result,) = ReferenceEvaluator(made).run(None, inputs)
    except Exception:  # the operators' own code runs in there, and may raise anything
        return None
    return np.asarray(result)


def _size(node: Any, inputs: Mapping[str, Array]) -> float:
    """How many elements a node gives at most."""
    arrays = [inputs[name] for name in node.input]
    if node.op_type == "Gather":
        return float(max(arrays[0].size, 1)) * arrays[1].size
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError:  # of an operator that does not broadcast
        shape = ()
    return max(float(np.prod(shape, dtype=float)), sum(array.size for array in arrays))
