"""OpenVINO with weights in fewer bits: decompressed in the product, inputs as they are or rounded.

A constant of codes, converted and multiplied with its scales, is what its compressor writes; the
CPU plugin multiplies with the codes. DYNAMIC_QUANTIZATION_GROUP_SIZE says how many inputs share a
scale when they are rounded to eight bits, 0 for none.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as operators

from bench.peers import Unsupported
from bench.peers.open_vino import bound_side
from bench.timing import Side
from bench.work import DenseWork

_GROUP = 32
_ROUNDED_GROUPS = (32, 128)


def dense(work: DenseWork, kind: str, threads: int) -> dict[str, list[Side]]:
    """Ways by whether inputs stay as they are; bfloat16 rounds them too."""
    del threads  # `open_vino.set_up` has set them
    if kind in ("bfloat16", "float16"):
        precision = {"bfloat16": "bf16", "float16": "f16"}[kind]
        return {"all": [_side(work, kind, {"INFERENCE_PRECISION_HINT": precision}, "inputs too")]}
    return {
        "weights": [_side(work, kind, {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}, "inputs float32")],
        "all": list(_rounded(work, kind)),
    }


SIDES: dict[str, Callable[..., dict[str, list[Side]]]] = {"dense": dense}


def _rounded(work: DenseWork, kind: str) -> Iterator[Side]:
    for group in _ROUNDED_GROUPS:
        if len(work.kernels[0]) % group == 0:
            config = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group)}
            yield _side(work, kind, config, f"inputs int8, groups of {group}")


def _side(work: DenseWork, kind: str, config: dict[str, str], variant: str) -> Side:
    x = operators.parameter(work.x.shape, np.float32)
    kernel = np.ascontiguousarray(work.kernels[0].T)
    weight = _WEIGHTS[kind](kernel)
    product = operators.matmul(x, weight, transpose_a=False, transpose_b=True)
    result = operators.add(product, operators.constant(work.bias.reshape(1, -1)))
    return bound_side(ov.Model([result], [x], "dense"), work.x, config, variant)


def _half(kernel: np.ndarray, dtype: Any) -> Any:
    return operators.convert(operators.constant(kernel, dtype=dtype), ov.Type.f32)


def _int8(kernel: np.ndarray) -> Any:
    """A scale for each output."""
    steps = np.abs(kernel).max(1, keepdims=True) / 127
    codes = operators.constant(np.rint(kernel / steps).astype(np.int8))
    return operators.multiply(operators.convert(codes, ov.Type.f32), operators.constant(steps))


def _int4(kernel: np.ndarray) -> Any:
    """A scale for each group of an output's inputs."""
    n, k = kernel.shape
    if k % _GROUP:
        raise Unsupported(f"k is a multiple of {_GROUP}")
    blocks = kernel.reshape(n, k // _GROUP, _GROUP)
    steps = np.abs(blocks).max(-1, keepdims=True) / 7
    codes = np.rint(blocks / steps).astype(np.int8)
    packed = (codes[..., ::2] & 15 | codes[..., 1::2] << 4).astype(np.uint8)
    tensor = ov.Tensor(np.ascontiguousarray(packed).reshape(-1), ov.Shape(blocks.shape), ov.Type.i4)
    copied = ov.op.Constant(tensor, shared_memory=False)
    numbers = operators.convert(copied, ov.Type.f32)
    scaled = operators.multiply(numbers, operators.constant(steps))
    return operators.reshape(scaled, operators.constant([n, k]), special_zero=False)


_WEIGHTS: dict[str, Callable[[np.ndarray], Any]] = {
    "int8": _int8,
    "int4": _int4,
    "bfloat16": lambda kernel: _half(kernel, ov.Type.bf16),
    "float16": lambda kernel: _half(kernel, ov.Type.f16),
}
