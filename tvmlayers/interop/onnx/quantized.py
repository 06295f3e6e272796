"""Kernels that come as whole numbers with scales, and the layers that keep them so.

Formulas are those of ONNX's DequantizeLinear and of ONNX Runtime's MatMulNBits: a number is
(code - zero point) * scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmlayers import layers
from tvmlayers.dtypes import HALF_DTYPES
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.codes import BASES, Array, Codes, Held, unpacked
from tvmlayers.interop.onnx.calls import Call
from tvmlayers.layers.graph import SymbolicTensor


def kept(call: Call, place: int, *, transposed: bool = False) -> Held | None:
    """(kind, arrays) of a constant matrix (k, n) that a DequantizeLinear gives, or a Cast of halves
    to float32, as a Dense keeps it; None where it comes in another way. transposed: the matrix is
    (n, k)."""
    name = call.inputs[place]
    found = _half_of(call, name, transposed) or _codes_of(call, name, transposed)
    return None if found is None else call.graph.held((name, transposed), found.held)


@dataclass(frozen=True)
class _Half:
    """A kernel (k, n) of float16 or bfloat16."""

    kernel: Array

    def held(self) -> Held:
        return self.kernel.dtype.name, [np.ascontiguousarray(self.kernel)]


def _half_of(call: Call, name: str, transposed: bool) -> _Half | None:
    node = call.graph.nodes.get(name)
    if node is None or node.op_type != "Cast":
        return None
    source = Call(call.graph, node)
    given = call.constant_of(source.inputs[0])
    if given is None or given.ndim != 2 or given.dtype.name not in HALF_DTYPES:
        return None
    if source.casts_to() != "float32":
        return None
    return _Half(given.T if transposed else given)


def _codes_of(call: Call, name: str, transposed: bool) -> Codes | None:
    node = call.graph.nodes.get(name)
    if node is None or not call.graph.constants.keys() >= set(filter(None, node.input)):
        return None
    source = Call(call.graph, node)
    if source.kind == "Transpose" and source.constant(0).ndim == 2:
        return _codes_of(call, node.input[0], not transposed)
    if source.kind != "DequantizeLinear" or source.constant(0).ndim != 2:
        return None
    given, scales = source.constant(0), source.constant(1)
    zeros = source.constant(2) if source.has(2) else np.zeros((), np.int32)
    base = given.dtype.name.removeprefix("u")
    if base not in BASES or scales.dtype.itemsize > 4:
        return None
    block, axis = source.get("block_size", 0), source.get("axis", 1) % 2
    numbers, wide = given.astype(np.int16), zeros.astype(np.int16)
    if scales.size == 1:
        scales, wide = (np.broadcast_to(each.reshape(1, 1), (1, 1)) for each in (scales, wide))
    elif not block:
        shape = (1, -1) if axis == 1 else (-1, 1)
        scales, wide = scales.reshape(shape), wide.reshape(shape if wide.size > 1 else (1, 1))
    codes = numbers - _along(wide, axis, block, numbers.shape)
    if transposed:
        codes, scales, axis = codes.T, scales.T, 1 - axis
    if block and axis != 0:
        return None
    if not block and scales.shape[0] != 1:
        return None  # a scale for each step of k
    columns = np.broadcast_to(scales, (len(scales), codes.shape[1])).astype(np.float32)
    return Codes(base, codes, np.ascontiguousarray(columns), block)


def _along(values: Array, axis: int, block: int, shape: tuple[int, ...]) -> Array:
    """Values for each block along an axis, one for each number of it."""
    if not block or values.size == 1:
        return values
    return np.repeat(values, block, axis)[: shape[0], : shape[1]]


def n_bits(call: Call) -> SymbolicTensor:
    """Dense of ONNX Runtime's MatMulNBits: blocks of k of each column, packed low bits first."""
    k, n, bits = (int(call.get(name, default)) for name, default in _SIZES)
    block = int(call.get("block_size", 0))
    if bits not in (4, 8):
        raise Unsupported(f"only 4 and 8 bits are there, not {bits}")
    if call.has(4):
        raise Unsupported("a kernel whose groups are chosen by index (g_idx) is not read")
    bias = call.constant(5) if call.has(5) else None
    x = call.tensor()
    held = call.graph.held(
        (*call.inputs[1:], k, n, bits, block), lambda: _blocks(call, k, n, bits, block).held()
    )
    return dense(call, x, held, k, n, bias)


_SIZES = (("K", 0), ("N", 0), ("bits", 4))


def _blocks(call: Call, k: int, n: int, bits: int, block: int) -> Codes:
    packed, scales = call.constant(1), call.constant(2)
    groups = -(-k // block) if block > 0 else 0
    if packed.size != n * groups * block * bits // 8 or scales.size != n * groups or not n * groups:
        raise Unsupported("its weight does not have the size that K, N and block_size say")
    zeros = np.full((n, groups), 1 << bits - 1, np.int16)
    if call.has(3):
        given = call.constant(3)
        if given.dtype != np.uint8:
            raise Unsupported("only whole zero points are there")
        zeros = unpacked(given.reshape(n, -1), bits)[:, :groups]
    codes = unpacked(packed.reshape(n * groups, -1), bits).reshape(n, groups, block)
    around = (codes - zeros[..., None]).reshape(n, -1)[:, :k]
    by_group = np.ascontiguousarray(scales.reshape(n, groups).T.astype(np.float32))
    return Codes(f"int{bits}", around.T, by_group, block)


def dynamic(call: Call) -> tuple[SymbolicTensor, Held, int, int] | None:
    """(x, the kernel as it is kept, k, n) of a product with a scale, where it is x @ W: what ONNX
    Runtime makes of a MatMul whose input it rounds to 8 bits in the call. None for another one.

    x is not rounded here.
    """
    for one, other in (call.inputs, reversed(call.inputs)):
        cast, scale = call.call_of(one), call.call_of(other)
        product = cast.source(0) if cast is not None and cast.kind == "Cast" else None
        if (
            product is None
            or scale is None
            or (product.kind, scale.kind) != ("MatMulInteger", "Mul")
        ):
            continue
        rounding = call.graph.nodes.get(product.inputs[0])
        if rounding is None or rounding.op_type != "DynamicQuantizeLinear":
            continue
        _, step, zero = rounding.output
        if product.inputs[2] != zero or step not in scale.inputs:
            continue
        (weight_scale,) = [name for name in scale.inputs if name != step] or [""]
        found = call.constant_of(weight_scale)
        if found is None or not product.is_constant(1) or product.constant(1).ndim != 2:
            raise Unsupported("only a constant matrix and its scales are there")
        given = product.constant(1).astype(np.int16)
        zeros = product.constant(3).astype(np.int16) if product.has(3) else np.zeros((), np.int16)
        k, n = given.shape
        x = call.tensor_of(rounding.input[0])
        scales = np.ascontiguousarray(np.broadcast_to(found.reshape(1, -1), (1, n)))
        codes = Codes("int8", given - zeros.reshape(1, -1), scales.astype(np.float32))
        key = *product.inputs[1:], weight_scale
        return x, call.graph.held(key, codes.held), k, n
    return None


def dense(
    call: Call,
    x: SymbolicTensor,
    held: Held,
    k: int,
    n: int,
    bias: Array | None,
) -> SymbolicTensor:
    """The Dense of a kernel (k, n) as it is kept, and a bias."""
    kind, arrays = held
    weights = [*arrays, *([] if bias is None else [bias.reshape(-1)])]

    def make(name: str) -> layers.Layer:
        return layers.Dense(n, use_bias=bias is not None, input_dim=k, stored=kind, name=name)

    made: SymbolicTensor = call.weighted(f"dense as {kind}", make, *weights)(x)
    return made
