"""Cases as LiteRT's files, for the peers that read them: weights inside, shapes fixed.

They are written through the schema that comes with LiteRT, as TensorFlow's converter would write
them: an activation that the runtime fuses into the product is a field of that operator.
"""

# mypy: disable-error-code="import-untyped, import-not-found"

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from bench.models import DLRM_BAGS, DLRM_BOTTOM, DLRM_TOP, TOWERS
from bench.peers import Unsupported
from bench.work import Array, BagWork, DenseWork, EmbeddingWork, ModelWork

VERSION = 3  # of the file format
IDENTIFIER = b"TFL3"
ALIGNMENT = 64
MOST_BYTES = (1 << 31) - (1 << 20)  # of weights: a FlatBuffer holds 2 GiB
TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
}

# In FULLY_CONNECTED itself; what XNNPACK does not fuse is an operator after it.
FUSED = {"relu": "RELU", "relu6": "RELU6"}
# An operator, the name of its options and their fields.
OPERATORS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "leaky_relu": ("LEAKY_RELU", "LeakyReluOptions", {"alpha": 0.2}),
    "elu": ("ELU", None, {}),
    "gelu": ("GELU", "GeluOptions", {"approximate": False}),
    "gelu_tanh": ("GELU", "GeluOptions", {"approximate": True}),
    "sigmoid": ("LOGISTIC", None, {}),
    "tanh": ("TANH", None, {}),
    "hard_silu": ("HARD_SWISH", "HardSwishOptions", {}),
    "hard_swish": ("HARD_SWISH", "HardSwishOptions", {}),
    "exponential": ("EXP", "ExpOptions", {}),
    "softmax": ("SOFTMAX", "SoftmaxOptions", {"beta": 1.0}),
    "log_softmax": ("LOG_SOFTMAX", "LogSoftmaxOptions", {}),
}
REDUCTIONS = {"sum": "SUM", "mean": "MEAN", "max": "REDUCE_MAX", "min": "REDUCE_MIN"}


class Graph:
    """Collects operators; each method returns the number of its result's tensor."""

    def __init__(self) -> None:
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]  # the first one means "none"
        self._operators: list[Any] = []
        self._codes: dict[str, int] = {}
        self._inputs: list[int] = []

    def input(self, array: Array) -> int:
        self._inputs.append(self._tensor(array.shape, str(array.dtype)))
        return self._inputs[-1]

    def weight(self, array: Array) -> int:
        self._buffers.append(_Weight(array))
        return self._tensor(array.shape, str(array.dtype), len(self._buffers) - 1)

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(self._tensors[tensor].shape)

    def add(
        self,
        operator: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        options: str | None = None,
        **fields: Any,
    ) -> int:
        """An operator whose result has this shape; `options`: the schema's name for its fields."""
        made = schema.OperatorT(inputs=list(inputs), outputs=[self._tensor(shape)])
        made.opcodeIndex = self._codes.setdefault(operator, len(self._codes))
        if options is not None:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            made.builtinOptions = getattr(schema, f"{options}T")(**fields)
        self._operators.append(made)
        return int(made.outputs[0])

    def dense(self, x: int, kernel: Array, bias: Array, activation: str | None = None) -> int:
        fused = FUSED.get(activation or "", "NONE")
        result = self.add(
            "FULLY_CONNECTED",
            [x, self.weight(kernel.T), self.weight(bias)],
            (*self.shape(x)[:-1], kernel.shape[1]),
            "FullyConnectedOptions",
            fusedActivationFunction=getattr(schema.ActivationFunctionType, fused),
        )
        return result if activation in FUSED else self.activate(result, activation)

    def activate(self, x: int, activation: str | None) -> int:
        shape = self.shape(x)
        if activation is None:
            return x
        if activation in ("silu", "swish"):
            return self.add("MUL", [x, self.activate(x, "sigmoid")], shape, "MulOptions")
        if activation == "hard_sigmoid":
            three, sixth = (self.weight(np.array(value, np.float32)) for value in (3, 1 / 6))
            relu6 = {"fusedActivationFunction": schema.ActivationFunctionType.RELU6}
            moved = self.add("ADD", [x, three], shape, "AddOptions", **relu6)
            return self.add("MUL", [moved, sixth], shape, "MulOptions")
        if activation not in OPERATORS:
            raise Unsupported(f"LiteRT has no operator for {activation!r}")
        operator, options, fields = OPERATORS[activation]
        return self.add(operator, [x], shape, options, **fields)

    def gather(self, table: int, ids: int, axis: int = 0) -> int:
        sizes = list(self.shape(table))
        sizes[axis : axis + 1] = self.shape(ids)
        return self.add("GATHER", [table, ids], sizes, "GatherOptions", axis=axis)

    def bag(self, table: int, ids: int, mode: str) -> int:
        """Rows looked up, (bags, length, dim), then reduced: no operator does both."""
        return self.reduce(self.gather(table, ids), mode, axis=1)

    def reduce(self, x: int, mode: str, axis: int, keep: bool = False) -> int:
        sizes = list(self.shape(x))
        sizes[axis : axis + 1] = [1] if keep else []
        axes = self.weight(np.array([axis], np.int32))
        return self.add(REDUCTIONS[mode], [x, axes], sizes, "ReducerOptions", keepDims=keep)

    def reshape(self, x: int, *shape: int) -> int:
        sizes = self.weight(np.array(shape, np.int32))
        return self.add("RESHAPE", [x, sizes], shape, "ReshapeOptions", newShape=list(shape))

    def model(self, result: int) -> bytes:
        """The finished file."""
        if sum(buffer.data.nbytes for buffer in self._buffers[1:]) > MOST_BYTES:
            raise Unsupported("a LiteRT file holds 2 GiB at most")
        graph = schema.SubGraphT(self._tensors, self._inputs, [result], self._operators, "main")
        codes = [_code(getattr(schema.BuiltinOperator, name)) for name in self._codes]
        model = schema.ModelT(VERSION, codes, [graph], "case", self._buffers)
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def _tensor(self, shape: Sequence[int], dtype: str = "float32", buffer: int = 0) -> int:
        sizes = [int(size) for size in shape]
        name = f"tensor{len(self._tensors)}"
        self._tensors.append(schema.TensorT(sizes, TYPES[dtype], buffer, name, hasRank=True))
        return len(self._tensors) - 1


class _Weight(schema.BufferT):  # type: ignore[misc]  # the schema has no types
    """A buffer that begins at whole cache lines, as the runtime reads it where it is."""

    def __init__(self, array: Array) -> None:
        super().__init__(np.ascontiguousarray(array).reshape(-1).view(np.uint8))

    def Pack(self, builder: Any) -> Any:
        size = self.data.nbytes
        builder.StartVector(1, size, ALIGNMENT)
        builder.head = builder.Head() - size
        builder.Bytes[builder.Head() : builder.Head() + size] = self.data.tobytes()
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


def _code(operator: int) -> Any:
    # Where an operator has several versions the runtime only asks whether it knows this one.
    older = min(operator, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    return schema.OperatorCodeT(deprecatedBuiltinCode=older, builtinCode=operator)


def dense(work: DenseWork, kernel: Array) -> bytes:
    """x: (m, k) to (m, n), by one of the work's kernels."""
    graph = Graph()
    return graph.model(graph.dense(graph.input(work.x), kernel, work.bias, work.case.activation))


def lookup(work: EmbeddingWork | BagWork) -> bytes:
    """Indices of one shape to rows, or to their reductions."""
    graph, (ids, *_) = Graph(), work.indices
    table = graph.weight(work.table)
    if isinstance(work, BagWork):
        return graph.model(graph.bag(table, graph.input(ids), work.case.mode))
    return graph.model(graph.gather(table, graph.input(ids)))


def model(work: ModelWork) -> bytes:
    """One of the public models, at the work's batch."""
    return MODELS[work.case.name](_Layers(work))


class _Layers:
    """A graph, and layers that find their weights by name."""

    def __init__(self, work: ModelWork) -> None:
        self.graph = Graph()
        self.inputs = [self.graph.input(array) for array in work.inputs[0]]
        self._weights = work.weights

    def dense(self, x: int, name: str, activation: str | None = None) -> int:
        kernel, bias = self._weights[f"{name}.kernel"], self._weights[f"{name}.bias"]
        return self.graph.dense(x, kernel, bias, activation)

    def table(self, name: str) -> int:
        return self.graph.weight(self._weights[f"{name}.embeddings"])


def _seed(layers: _Layers) -> bytes:
    rows = layers.graph.gather(layers.table("embedding"), *layers.inputs)
    batch, length, dim = layers.graph.shape(rows)
    flat = layers.graph.reshape(rows, batch, length * dim)
    hidden = layers.dense(flat, "hidden", "relu")
    return layers.graph.model(layers.dense(hidden, "output", "softmax"))


def _text(layers: _Layers) -> bytes:
    (ids,) = layers.inputs
    bags = layers.graph.bag(layers.table("bag"), ids, "mean")
    return layers.graph.model(layers.dense(bags, "output", "softmax"))


def _two_tower(layers: _Layers) -> bytes:
    graph, towers = layers.graph, []
    for name, ids in zip(TOWERS, layers.inputs, strict=True):
        hidden = layers.dense(graph.gather(layers.table(name), ids), f"{name}_hidden", "relu")
        towers.append(layers.dense(hidden, f"{name}_output"))
    products = graph.add("MUL", towers, graph.shape(towers[0]), "MulOptions")
    return graph.model(graph.activate(graph.reduce(products, "sum", 1, keep=True), "sigmoid"))


def _dlrm(layers: _Layers) -> bytes:
    graph, (numbers, *indices) = layers.graph, layers.inputs
    for place in range(len(DLRM_BOTTOM)):
        numbers = layers.dense(numbers, f"bottom{place}", "relu")
    bags = [graph.bag(layers.table(f"bag{i}"), ids, "sum") for i, ids in enumerate(indices)]
    batch, dim = graph.shape(numbers)
    vectors = DLRM_BAGS + 1
    stacked = graph.reshape(_concatenate(graph, [numbers, *bags]), batch, vectors, dim)
    products = graph.add(
        "BATCH_MATMUL",
        [stacked, stacked],
        (batch, vectors, vectors),
        "BatchMatMulOptions",
        adjY=True,
    )
    row, column = np.tril_indices(vectors, k=-1)
    places = graph.weight((row * vectors + column).astype(np.int32))
    pairs = graph.gather(graph.reshape(products, batch, vectors * vectors), places, axis=1)
    top = _concatenate(graph, [numbers, pairs])
    last = len(DLRM_TOP) - 1
    for place in range(len(DLRM_TOP)):
        top = layers.dense(top, f"top{place}", "sigmoid" if place == last else "relu")
    return graph.model(top)


def _concatenate(graph: Graph, parts: Sequence[int]) -> int:
    """Of rows: (batch, n) each."""
    columns = sum(graph.shape(part)[1] for part in parts)
    shape = (graph.shape(parts[0])[0], columns)
    return graph.add("CONCATENATION", parts, shape, "ConcatenationOptions", axis=1)


MODELS: dict[str, Callable[[_Layers], bytes]] = {
    "seed": _seed,
    "text": _text,
    "two tower": _two_tower,
    "dlrm": _dlrm,
}
