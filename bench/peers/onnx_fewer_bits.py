"""ONNX Runtime with weights in fewer bits: MatMulNBits at each accuracy level, dynamic int8."""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from bench.peers import Unsupported
from bench.peers.onnx_runtime import NAME
from bench.timing import Side
from bench.work import Array, DenseWork

_BLOCK = 32
_BITS = {"int8": 8, "int4": 4}


def dense(work: DenseWork, kind: str, threads: int) -> dict[str, list[Side]]:
    """Ways by whether inputs stay as they are: level 4 rounds them to eight bits by blocks."""
    if kind not in _BITS:
        raise Unsupported("int8 and int4")
    rounded = [_n_bits(work, _BITS[kind], 4, threads)]
    if kind == "int8":
        rounded.append(_dynamic(work, threads))
    return {"weights": [_n_bits(work, _BITS[kind], 0, threads)], "all": rounded}


SIDES: dict[str, Callable[..., dict[str, list[Side]]]] = {"dense": dense}


def _n_bits(work: DenseWork, bits: int, level: int, threads: int) -> Side:
    kernel = work.kernels[0]
    k, n = kernel.shape
    if k % _BLOCK:
        raise Unsupported(f"k is a multiple of {_BLOCK}")
    blocks = kernel.T.reshape(n, k // _BLOCK, _BLOCK)
    most = (1 << (bits - 1)) - 1
    steps = np.abs(blocks).max(-1) / most
    codes = (np.rint(blocks / steps[..., None]) + most + 1).astype(np.uint8)
    if bits == 4:
        codes = codes[..., ::2] | codes[..., 1::2] << 4
    node = helper.make_node(
        "MatMulNBits",
        ["x", "codes", "steps", "", "", "bias"],
        ["y"],
        domain="com.microsoft",
        K=k,
        N=n,
        bits=bits,
        block_size=_BLOCK,
        accuracy_level=level,
    )
    weights = {"codes": codes, "steps": steps.astype(np.float32), "bias": work.bias}
    return _side(work, [node], weights, f"MatMulNBits, level {level}", threads)


def _dynamic(work: DenseWork, threads: int) -> Side:
    kernel = work.kernels[0]
    steps = np.abs(kernel).max(0) / 127
    codes = np.rint(kernel / steps).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "codes", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "steps"], ["scales"]),
        helper.make_node("Mul", ["floats", "scales"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["y"]),
    ]
    weights = {"codes": codes, "steps": steps.astype(np.float32), "bias": work.bias}
    return _side(work, nodes, weights, "dynamic, inputs uint8", threads)


def _side(
    work: DenseWork, nodes: list[Any], weights: dict[str, Array], variant: str, threads: int
) -> Side:
    x, n = work.x, len(work.bias)
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [len(x), n])],
        [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in weights.items()],
    )
    operators = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=operators, ir_version=10)
    options = ort.SessionOptions()
    options.use_per_session_threads = False  # the pool that `onnx_runtime.set_up` made
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    result = np.empty((len(x), n), np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y", "cpu", 0, np.float32, result.shape, result.ctypes.data)

    def call() -> Array:
        session.run_with_iobinding(binding)
        return result

    return Side(NAME, [call], variant=variant)
