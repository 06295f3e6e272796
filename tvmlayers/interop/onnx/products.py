"""Rows of the table for products: with a constant matrix, and of two tensors of the model."""

from __future__ import annotations

import numpy as np

from tvmlayers import layers
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.codes import Array, Held
from tvmlayers.interop.onnx import norms, quantized
from tvmlayers.interop.onnx.calls import Call
from tvmlayers.interop.onnx.patterns import Unit, is_near, same_axes, unit_of
from tvmlayers.layers.graph import SymbolicTensor


def gemm(call: Call) -> SymbolicTensor:
    """Dense."""
    if call.get("alpha", 1.0) != 1 or call.get("beta", 1.0) != 1 or call.get("transA", 0):
        raise Unsupported("only alpha=1, beta=1 and transA=0 are there")
    kernel, turned = call.constant(1), bool(call.get("transB", 0))
    bias = call.constant(2) if call.has(2) else None
    held = quantized.kept(call, 1, transposed=turned)
    return _dense(call, call.tensor(), kernel.T if turned else kernel, bias, held)


def matmul(call: Call) -> SymbolicTensor:
    """Dense with a constant matrix, Dot of two batches of matrices."""
    if call.is_constant(1):
        return _dense(call, call.tensor(), call.constant(1), None, quantized.kept(call, 1))
    (left, at_left), (right, at_right) = (_turned(call, name) for name in call.inputs)
    return _dot(call, left, right, (3 - at_left, at_right))


def biased(call: Call) -> SymbolicTensor | None:
    """The Dense of a MatMul and the constant that is added to it; None for another sum."""
    for place, other in ((0, 1), (1, 0)):
        product = call.source(place)
        is_matmul = product is not None and product.kind == "MatMul" and product.is_constant(1)
        if product is None or not call.is_constant(other):
            continue
        if is_matmul:
            held, kernel = quantized.kept(product, 1), product.constant(1)
            return _dense(call, product.tensor(), kernel, call.constant(other), held)
        rounded = quantized.dynamic(product) if product.kind == "Mul" else None
        if rounded is not None:
            return quantized.dense(call, *rounded, call.constant(other))
    return None


def _dense(
    call: Call, x: SymbolicTensor, kernel: Array, bias: Array | None, held: Held | None
) -> SymbolicTensor:
    if kernel.ndim != 2:
        raise Unsupported("its weight is no matrix")
    features, units = kernel.shape
    if bias is not None and bias.size == 1 != units:
        bias = np.broadcast_to(bias.reshape(()), (units,))
    if bias is not None and bias.reshape(-1).shape != (units,):
        raise Unsupported(f"a bias is one number for each of {units} columns, not {bias.shape}")
    if held is not None:
        return quantized.dense(call, x, held, features, units, bias)
    has_bias, weights = bias is not None, [kernel]
    if bias is not None:
        weights.append(bias if bias.ndim == 1 else bias.reshape(-1))
    dtype = kernel.dtype.name

    def make(name: str) -> layers.Layer:
        return layers.Dense(units, use_bias=has_bias, input_dim=features, dtype=dtype, name=name)

    made: SymbolicTensor = call.weighted("dense", make, *weights)(x)
    return made


def _turned(call: Call, name: str) -> tuple[str, int]:
    """(operand, axis 1) or, of a transposed one, (what was transposed, axis 2)."""
    source = call.call_of(name)
    if source is None or source.kind != "Transpose" or list(source.get("perm", ())) != [0, 2, 1]:
        return name, 1
    if norms.batch_norm_of(source) is not None:
        return name, 1
    return source.inputs[0], 2


def vectors(call: Call, left: str, right: str) -> SymbolicTensor:
    """The dot product of each row of two tensors (batch, k): (batch, 1), or (batch,)."""
    product = _dot(call, left, right, (1, 1))
    if call.get("keepdims", 1):
        return product
    return call.layer(layers.Reshape, ())(product)  # type: ignore[no-any-return]


def of_vectors(call: Call) -> SymbolicTensor | None:
    """Dot of vectors and matrices: of a Squeeze, None where it is something else."""
    product = call.source(0)
    if product is None or product.kind != "MatMul":
        return None
    for place, name in enumerate(product.inputs):
        new = call.call_of(name)
        if new is None or new.kind != "Unsqueeze" or new.tensor().rank != 2:
            continue
        if new.axes(3) == call.axes(3) == (place + 1,):
            other, at = _turned(call, product.inputs[1 - place])
            if place == 0:
                return _dot(call, new.inputs[0], other, (1, at))
            return _dot(call, other, new.inputs[0], (3 - at, 1))
    return None


def _dot(call: Call, left: str, right: str, axes: tuple[int, int]) -> SymbolicTensor:
    """Dot over these axes; of operands of length 1 along them, with normalize."""
    names, pair = (left, right), [unit_of(call, name) for name in (left, right)]
    ranks = [
        call.tensor_of(unit.x if unit else name).rank
        for unit, name in zip(pair, names, strict=True)
    ]
    normalize = all(
        unit is not None and _fits(unit, axis, rank)
        for unit, axis, rank in zip(pair, axes, ranks, strict=True)
    )
    if normalize:
        names = (pair[0].x, pair[1].x)  # type: ignore[union-attr]
    tensors = [call.tensor_of(name) for name in names]
    if any(tensor.rank not in (2, 3) for tensor in tensors):
        raise Unsupported("only batches of vectors or of matrices are there")
    return call.layer(layers.Dot, axes, normalize)(tensors)  # type: ignore[no-any-return]


def _fits(unit: Unit, axis: int, rank: int) -> bool:
    return same_axes(unit.axes, rank) == (axis,) and is_near(unit.least, 1e-6)


def pairs(call: Call) -> SymbolicTensor:
    """DotInteraction: the strict lower triangle of the products of a stack with itself."""
    flat = call.source(0)
    product = flat.source(0) if flat is not None and flat.kind in ("Flatten", "Reshape") else None
    if product is not None and product.kind == "MatMul" and call.get("axis", 0) in (1, -1):
        (left, one), (right, two) = (_turned(call, name) for name in product.inputs)
        if left == right and (one, two) == (1, 2):
            x = call.tensor_of(left)
            features = x.shape[1] or 0
            rows, columns = np.tril_indices(features, -1)
            if np.array_equal(call.constant(1), rows * features + columns):
                return call.layer(layers.DotInteraction)(x)  # type: ignore[no-any-return]
    raise Unsupported(
        "no layer here picks by index, but rows of a constant matrix and the triangle of "
        "x @ transpose(x)"
    )
