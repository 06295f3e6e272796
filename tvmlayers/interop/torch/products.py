"""Rows of the table for products: with a constant matrix, and of two tensors of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.torch import merges, norms
from tvmlayers.interop.torch.calls import Call, Plan, shape_of
from tvmlayers.interop.torch.context import Context
from tvmlayers.layers import Activation, Dot, DotInteraction, Reshape

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import Node


def linear(call: Call, context: Context) -> Plan:
    """Dense; the weight is (out, in)."""
    kernel, bias = _constant(call, "weight"), None
    if call["bias"] is not None:
        bias = _constant(call, "bias")
    return Plan((call["input"],), lambda x: context.dense(call, "weight", kernel.t(), bias)(x))


def own_linear(call: Call, context: Context) -> Plan:
    """Dense and its activation, from the operator of `tvmlayers.torch`."""
    product, name = linear(call, context), call["activation"]
    if name == "linear":
        return product
    return Plan(product.takes, lambda x: context.plain(call, Activation, name)(product.make(x)))


def addmm(call: Call, context: Context) -> Plan:
    """Dense: bias + mat1 @ mat2."""
    call.need(alpha=1, beta=1)
    kernel = _constant(call, "mat2")
    bias = _as_bias(_constant(call, "self"), kernel)
    return Plan((call["mat1"],), lambda x: context.dense(call, "mat2", kernel, bias)(x))


def matmul(call: Call, context: Context) -> Plan:
    """Dense where the right side is a constant matrix; Dot of two batches of matrices."""
    right = "mat2" if "mat2" in call.arguments else "other"
    kernel = call.constant(right)
    if kernel is not None and kernel.ndim == 2:
        return Plan((call["self"],), lambda x: context.dense(call, right, kernel, None)(x))
    if kernel is not None and kernel.ndim == 1 and len(call.shape) == 1:
        column = kernel.unsqueeze(1)
        return Plan(
            (call["self"],),
            lambda x: context.plain(call, Reshape, ())(context.dense(call, right, column, None)(x)),
        )
    if kernel is not None or not call.is_symbolic(call["self"]):
        raise Unsupported("a constant can only be the right side, and a matrix")
    (left, at_left), (other, at_right) = _turned(call, call["self"]), _turned(call, call[right])
    if len(shape_of(left)) != 3 or len(shape_of(other)) != 3:
        raise Unsupported("only batches of matrices, (batch, m, k) @ (batch, k, n), are there")
    # A transposed operand is contracted over its other axis.
    return _dot(call, context, left, other, (3 - at_left, at_right))


def _turned(call: Call, node: Node) -> tuple[Node, int]:
    """(operand, axis 1) or, of a transposed one, (what was transposed, axis 2)."""
    source = call.call_of(node)
    if source is not None and len(source.shape) == 3:
        if source.operator == "transpose":
            turns = {source["dim0"] % 3, source["dim1"] % 3} == {1, 2}
        else:
            swaps = source.operator == "permute" and [d % 3 for d in source["dims"]] == [0, 2, 1]
            turns = swaps or source.operator == "mT"
        if turns and norms.turned_before(source) is None:
            return source.first, 2
    return node, 1


def _dot(
    call: Call, context: Context, left: Node, right: Node, axes: tuple[int, int], keep: bool = True
) -> Plan:
    """Dot over these axes; keep: False where Dot's last axis of 1 is to go."""
    units = [norms.unit_of(call, node) for node in (left, right)]
    both = [unit for unit, axis in zip(units, axes, strict=True) if unit and unit.fits_dot(axis)]
    options: tuple[Any, ...] = (axes,)
    if len(both) == 2:
        (left, right), options = (unit.source for unit in both), (axes, True)

    def make(*pair: Any) -> Any:
        product = context.plain(call, Dot, *options)(list(pair))
        return product if keep else context.plain(call, Reshape, ())(product)

    return Plan((left, right), make)


def vectors(call: Call, context: Context, left: Node, right: Node, keep: bool) -> Plan:
    """The dot product of each row of two tensors (batch, k): (batch, 1), or (batch,)."""
    if not (call.is_symbolic(left) and call.is_symbolic(right)):
        raise Unsupported("no layer here multiplies by a constant vector element by element")
    if shape_of(left) != shape_of(right) or len(shape_of(left)) != 2:
        raise Unsupported("only dot products of two tensors (batch, k) are there")
    return _dot(call, context, left, right, (1, 1), keep)


def vecdot(call: Call, context: Context) -> Plan:
    """Dot over the last axis."""
    if call["dim"] not in (-1, 1):
        raise Unsupported(f"only dim=-1 is there, not {call['dim']}")
    return vectors(call, context, call["x"], call["y"], keep=False)


def einsum(call: Call, context: Context) -> Plan:
    """The equations that are one Dot: "bd,bd->b", "bid,bjd->bij", "bd,bjd->bj", in any letters."""
    terms, _, result = call["equation"].replace(" ", "").partition("->")
    left, _, right = terms.partition(",")
    if len(call["tensors"]) == 2 and len(left) == len(set(left)) and len(right) == len(set(right)):
        one, other = call["tensors"]
        if left == right and len(left) == 2 and result == left[0]:
            return vectors(call, context, one, other, keep=False)
        summed = set(left) & set(right) - {left[0]}
        ranks = {len(left), len(right)}
        if ranks <= {2, 3} and 3 in ranks and left[0] == right[0] and len(summed) == 1:
            (letter,) = summed
            if result == left.replace(letter, "") + right[1:].replace(letter, ""):
                axes = (left.index(letter), right.index(letter))
                return _dot(call, context, one, other, axes)
    raise Unsupported(f"no layer here computes {call['equation']!r}")


def pairs(call: Call, context: Context) -> Plan:
    """DotInteraction: the strict lower triangle of the products of a stack with itself."""
    import torch

    product = call.call_of(_whole(call, call["self"]))
    if product is not None and product.operator in ("bmm", "matmul"):
        right = "mat2" if product.operator == "bmm" else "other"
        (left, one), (other, two) = (_turned(product, product[side]) for side in ("self", right))
        if left is other and (one, two) == (1, 2) and len(call["indices"]) == 3:
            batch, *picked = call["indices"]
            wanted = torch.tril_indices(*product.shape[1:], offset=-1)
            got = [call.constants.get(index) for index in picked]
            if batch is None and all(
                index is not None and torch.equal(index.cpu(), row)
                for index, row in zip(got, wanted, strict=True)
            ):
                return Plan((left,), lambda x: context.plain(call, DotInteraction)(x))
    raise Unsupported(
        "no layer here picks by index, but for the triangle tril_indices(F, F, offset=-1) of "
        "x @ x.transpose(1, 2)"
    )


def _whole(call: Call, node: Node) -> Node:
    """What a slice that leaves nothing out was taken from."""
    source = call.call_of(node)
    while (
        source is not None and source.operator == "slice" and shape_of(source.first) == source.shape
    ):
        node = source.first
        source = call.call_of(node)
    return node


def add(call: Call, context: Context) -> Plan:
    """The bias of a product with a constant matrix, or any other sum."""
    call.need(alpha=1)
    for product, bias in ((call["self"], call["other"]), (call["other"], call["self"])):
        if plan := _biased(call, context, product, bias, 1):
            return plan
    return merges.add(call, context)


def sub(call: Call, context: Context) -> Plan:
    """A bias that is taken away, or any other difference."""
    call.need(alpha=1)
    return _biased(call, context, call["self"], call["other"], -1) or merges.sub(call, context)


def _biased(call: Call, context: Context, node: Any, value: Any, sign: int) -> Plan | None:
    """The Dense of a product without bias and this one; None where they are something else."""
    import torch

    product = call.call_of(node)
    if product is None or product.operator not in ("linear", "matmul", "mm"):
        return None
    names = {"linear": "weight", "matmul": "other", "mm": "mat2"}
    weight = names[product.operator]
    kernel = product.constant(weight)
    constant = torch.tensor(value) if isinstance(value, (int, float)) else call.constants.get(value)
    if kernel is None or kernel.ndim != 2 or constant is None or product.arguments.get("bias"):
        return None
    kernel = kernel.t() if weight == "weight" else kernel
    bias = _as_bias(constant.to(kernel.dtype) if constant.ndim == 0 else constant, kernel) * sign
    return Plan((product.first,), lambda x: context.dense(product, weight, kernel, bias)(x))


def _as_bias(value: Tensor, kernel: Tensor) -> Tensor:
    """A constant that is added to every row, as (units,)."""
    if value.numel() not in (1, value.shape[-1] if value.ndim else 1):
        raise Unsupported(
            f"a bias is one number for each column, not of shape {tuple(value.shape)}"
        )
    return value.reshape(-1).expand(kernel.shape[1])


def _constant(call: Call, argument: str) -> Tensor:
    value = call.constant(argument)
    if value is None:
        raise Unsupported(f"its {argument} depends on the inputs")
    return value
