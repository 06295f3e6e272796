"""Cases as ONNX models, for the peers that read them: weights inside, shapes fixed.

Activations are written as the one operator that ONNX has for them, which runtimes know how to fuse.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bench.models import DLRM_BAGS, DLRM_BOTTOM, DLRM_TOP, TOWERS
from bench.peers import Unsupported
from bench.work import Array, BagWork, DenseWork, EmbeddingWork, ModelWork

OPSET = 20  # the first with Gelu
IR_VERSION = 10  # that of opset 20's release; a newer one is refused by older runtimes
OUTPUT = "result"

# An operator and its attributes; silu, not here, is two operators.
OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "elu": ("Elu", {}),
    "selu": ("Selu", {}),
    "gelu": ("Gelu", {}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "sigmoid": ("Sigmoid", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "tanh": ("Tanh", {}),
    "hard_silu": ("HardSwish", {}),
    "hard_swish": ("HardSwish", {}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "mish": ("Mish", {}),
    "exponential": ("Exp", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "log_softmax": ("LogSoftmax", {"axis": -1}),
}
REDUCTIONS = {"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin"}


class Graph:
    """Collects operators; each method returns the name of its result."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._inputs: list[Any] = []

    def input(self, array: Array) -> str:
        return self._input(array, f"input{len(self._inputs)}")

    def _input(self, array: Array, name: str) -> str:
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self._inputs.append(helper.make_tensor_value_info(name, kind, array.shape))
        return name

    def weight(self, array: Array) -> str:
        name = f"weight{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def outside(self, array: Array, name: str) -> str:
        """A weight whose values the runtime is given: a model holds 2 GB at most."""
        tensor = onnx.TensorProto(name=name, dims=array.shape)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=name)
        self._weights.append(tensor)
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"value{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def dense(self, x: str, kernel: Array, bias: Array, activation: str | None = None) -> str:
        return self.activate(
            self.add("Gemm", x, self.weight(kernel), self.weight(bias)), activation
        )

    def activate(self, x: str, activation: str | None) -> str:
        if activation is None:
            return x
        if activation in ("silu", "swish"):
            return self.add("Mul", x, self.add("Sigmoid", x))
        if activation == "relu6":
            low, high = (self.weight(np.array(value, np.float32)) for value in (0, 6))
            return self.add("Clip", x, low, high)
        if activation not in OPERATORS:
            raise Unsupported(f"ONNX has no operator for {activation!r}")
        operator, attributes = OPERATORS[activation]
        return self.add(operator, x, **attributes)

    def bag(self, table: str, ids: str, mode: str) -> str:
        """Rows looked up, (bags, length, dim), then reduced: ONNX has no operator for both."""
        rows = self.add("Gather", table, ids)
        # ReduceSum takes its axes as an input since opset 13, the others since 18.
        axes = self.weight(np.array([1], np.int64))
        return self.add(REDUCTIONS[mode], rows, axes, keepdims=0)

    def reshape(self, x: str, *shape: int) -> str:
        return self.add("Reshape", x, self.weight(np.array(shape, np.int64)))

    def model(self, result: str, shape: Sequence[int]) -> bytes:
        """The finished model, its result float32 of this shape."""
        self._nodes.append(helper.make_node("Identity", [result], [OUTPUT]))
        output = helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, shape)
        graph = helper.make_graph(self._nodes, "case", self._inputs, [output], self._weights)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        serialised: bytes = model.SerializeToString()
        return serialised


def dense(work: DenseWork, kernel: Array) -> bytes:
    """x: (m, k) to (m, n), by one of the work's kernels."""
    graph, case = Graph(), work.case
    result = graph.dense(graph.input(work.x), kernel, work.bias, case.activation)
    return graph.model(result, (case.m, case.n))


def lookup(work: EmbeddingWork | BagWork, table_name: str) -> bytes:
    """Indices of one shape to rows, or to their reductions; the table stays outside."""
    graph, (ids, *_) = Graph(), work.indices
    table = graph.outside(work.table, table_name)
    if isinstance(work, BagWork):
        bags = graph.bag(table, graph.input(ids), work.case.mode)
        return graph.model(bags, (work.case.bags, work.case.dim))
    return graph.model(graph.add("Gather", table, graph.input(ids)), (*ids.shape, work.case.dim))


def model(work: ModelWork) -> bytes:
    """One of the public models, at the work's batch."""
    return MODELS[work.case.name](work)


class _Layers:
    """A graph, and layers that find their weights by name."""

    def __init__(self, work: ModelWork) -> None:
        self.graph = Graph()
        self.inputs = [self.graph.input(array) for array in work.inputs[0]]
        self._weights = work.weights

    def dense(self, x: str, name: str, activation: str | None = None) -> str:
        kernel, bias = self._weights[f"{name}.kernel"], self._weights[f"{name}.bias"]
        return self.graph.dense(x, kernel, bias, activation)

    def table(self, name: str) -> str:
        return self.graph.weight(self._weights[f"{name}.embeddings"])


def _seed(work: ModelWork) -> bytes:
    layers, batch = _Layers(work), work.case.batch
    rows = layers.graph.add("Gather", layers.table("embedding"), *layers.inputs)
    hidden = layers.dense(layers.graph.reshape(rows, batch, -1), "hidden", "relu")
    return layers.graph.model(layers.dense(hidden, "output", "softmax"), (batch, 10))


def _text(work: ModelWork) -> bytes:
    layers = _Layers(work)
    bags = layers.graph.bag(layers.table("bag"), *layers.inputs, "mean")
    return layers.graph.model(layers.dense(bags, "output", "softmax"), (work.case.batch, 10))


def _two_tower(work: ModelWork) -> bytes:
    layers = _Layers(work)
    graph, towers = layers.graph, []
    for name, ids in zip(TOWERS, layers.inputs, strict=True):
        rows = graph.add("Gather", layers.table(name), ids)
        hidden = layers.dense(rows, f"{name}_hidden", "relu")
        towers.append(layers.dense(hidden, f"{name}_output"))
    axes = graph.weight(np.array([-1], np.int64))
    dot = graph.add("ReduceSum", graph.add("Mul", *towers), axes, keepdims=1)
    return graph.model(graph.activate(dot, "sigmoid"), (work.case.batch, 1))


def _dlrm(work: ModelWork) -> bytes:
    layers, batch = _Layers(work), work.case.batch
    graph, (numbers, *indices) = layers.graph, layers.inputs
    for place in range(len(DLRM_BOTTOM)):
        numbers = layers.dense(numbers, f"bottom{place}", "relu")
    bags = [graph.bag(layers.table(f"bag{i}"), ids, "sum") for i, ids in enumerate(indices)]
    vectors = DLRM_BAGS + 1
    stacked = graph.reshape(graph.add("Concat", numbers, *bags, axis=1), batch, vectors, -1)
    turned = graph.add("Transpose", stacked, perm=[0, 2, 1])
    products = graph.reshape(graph.add("MatMul", stacked, turned), batch, vectors * vectors)
    row, column = np.tril_indices(vectors, k=-1)
    pairs = graph.add("Gather", products, graph.weight(row * vectors + column), axis=1)
    top = graph.add("Concat", numbers, pairs, axis=1)
    last = len(DLRM_TOP) - 1
    for place in range(len(DLRM_TOP)):
        top = layers.dense(top, f"top{place}", "sigmoid" if place == last else "relu")
    return graph.model(top, (batch, 1))


MODELS: dict[str, Callable[[ModelWork], bytes]] = {
    "seed": _seed,
    "text": _text,
    "two tower": _two_tower,
    "dlrm": _dlrm,
}
