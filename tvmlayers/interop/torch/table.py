"""The ATen operators that can be imported: one row each, from a call to its Plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.torch import means, merges, norms, products, tables
from tvmlayers.interop.torch.calls import Call, Plan, dtype_of, same, shape_of
from tvmlayers.interop.torch.context import Context
from tvmlayers.layers import ELU, Activation, Concatenate, Flatten, LeakyReLU, Reshape

if TYPE_CHECKING:
    from torch.fx import Node

Row: TypeAlias = Callable[[Call, Context], Plan]


def activation(name: str, **options: object) -> Row:
    """The row of an activation of ours; options: the only arguments that it is right for."""

    def row(call: Call, context: Context) -> Plan:
        call.need(**options)
        return _activation(call, context, name, call.first)

    return row


def _activation(call: Call, context: Context, name: str, x: Node) -> Plan:
    return Plan((x,), lambda x: context.plain(call, Activation, name)(x))


def leaky_relu(call: Call, context: Context) -> Plan:
    """The activation of Keras's slope, or LeakyReLU with another."""
    slope = call["negative_slope"]
    if slope == 0.2:
        return _activation(call, context, "leaky_relu", call.first)
    return Plan((call.first,), lambda x: context.plain(call, LeakyReLU, slope)(x))


def elu(call: Call, context: Context) -> Plan:
    """The activation, or ELU with another alpha."""
    call.need(scale=1, input_scale=1)
    alpha = call["alpha"]
    if alpha == 1:
        return _activation(call, context, "elu", call.first)
    return Plan((call.first,), lambda x: context.plain(call, ELU, alpha)(x))


def over_last_axis(name: str) -> Row:
    """The row of softmax or log_softmax."""

    def row(call: Call, context: Context) -> Plan:
        rank = len(call.shape)
        if call["dim"] % rank != rank - 1:
            raise Unsupported(f"only the last axis can be reduced over, not dim={call['dim']}")
        _need_same_dtype(call)
        return _activation(call, context, name, call.first)

    return row


def gelu(call: Call, context: Context) -> Plan:
    """gelu, by erf or by tanh."""
    name = "gelu_tanh" if call["approximate"] == "tanh" else "gelu"
    return _activation(call, context, name, call.first)


def softplus(call: Call, context: Context) -> Plan:
    """softplus; from a threshold of 20 on, log(1 + exp(x)) and x are next to equal."""
    call.need(beta=1)
    if call["threshold"] < 20:
        raise Unsupported(f"only thresholds from 20 on are there, not {call['threshold']}")
    return _activation(call, context, "softplus", call.first)


def clamp(call: Call, context: Context) -> Plan:
    """relu and relu6 under the names of clamp and hardtanh."""
    given = call.arguments
    limits = (given.get("min", given.get("min_val")), given.get("max", given.get("max_val")))
    if limits not in ((0, None), (0, 6)):
        raise Unsupported(f"only limits (0, None) and (0, 6) are there, not {limits}")
    return _activation(call, context, "relu" if limits[1] is None else "relu6", call.first)


def div(call: Call, context: Context) -> Plan:
    """softsign's x / (1 + |x|), a division by x's own length, a weighted mean, or a constant."""
    x, below = call["self"], call.call_of(call["other"])
    if below is not None and below.operator == "add" and below["alpha"] == 1:
        for magnitude, one in ((below["self"], below["other"]), (below["other"], below["self"])):
            source = call.call_of(magnitude)
            if one == 1 and source is not None and source.operator == "abs" and source.first is x:
                return _activation(call, context, "softsign", x)
    return (
        norms.unit_normalization(call, context)
        or means.weighted_mean(call, context)
        or merges.div(call, context)
    )


def mul(call: Call, context: Context) -> Plan:
    """x * sigmoid(x), which is silu, or any other product."""
    for x, factor in ((call["self"], call["other"]), (call["other"], call["self"])):
        source = call.call_of(factor)
        if source is not None and source.operator == "sigmoid" and source.first is x:
            return _activation(call, context, "silu", x)
    return merges.mul(call, context)


def identity(call: Call, context: Context) -> Plan:
    """Operators that leave the numbers as they are."""
    before, after = dtype_of(call.first), dtype_of(call.node)
    if before != after and not _widens(before, after):
        raise Unsupported(f"no layer here casts {before} to {after}")
    if shape_of(call.first) != call.shape:
        raise Unsupported("no layer here cuts a part out")
    return Plan((call.first,), same)


def dropout(call: Call, context: Context) -> Plan:
    """Nothing, in eval mode."""
    if call["train"]:
        raise Unsupported("the program was exported in training mode: call module.eval() first")
    return identity(call, context)


def view(call: Call, context: Context) -> Plan:
    """Flatten and Reshape, which never touch the batch axis."""
    before, after = shape_of(call.first), call.shape
    if before == after:
        return identity(call, context)
    sizes = [size for size in after[1:] if isinstance(size, int)]
    if not before or not after or before[0] != after[0] or len(sizes) != len(after) - 1:
        raise Unsupported(
            f"only fixed axes after the batch can be put into another shape, not {before} "
            f"into {after}"
        )
    if plan := norms.flat_prelu(call, context):
        return plan
    if len(after) == 2 and len(before) > 2:
        return Plan((call.first,), lambda x: context.plain(call, Flatten)(x))
    return Plan((call.first,), lambda x: context.plain(call, Reshape, sizes)(x))


def cat(call: Call, context: Context) -> Plan:
    """Concatenate."""
    _need_tensors(call)
    taken = tuple(call["tensors"])
    if len(taken) == 1:
        return Plan(taken, same)
    return Plan(taken, lambda *all: context.plain(call, Concatenate, call["dim"])(list(all)))


def stack(call: Call, context: Context) -> Plan:
    """Concatenate of tensors that have one more axis first."""
    _need_tensors(call)
    taken = tuple(call["tensors"])
    axis = call["dim"] % len(call.shape)
    sizes = [*call.shape[1:axis], 1, *call.shape[axis + 1 :]]
    if axis == 0 or not all(isinstance(size, int) for size in sizes):
        raise Unsupported("only fixed axes after the batch can be stacked along")

    def make(*tensors: Any) -> Any:
        apart = [context.plain(call, Reshape, sizes)(tensor) for tensor in tensors]
        return context.plain(call, Concatenate, axis)(apart) if len(apart) > 1 else apart[0]

    return Plan(taken, make)


def getitem(call: Call, context: Context) -> Plan:
    """The first result of a bag, or of a maximum over an axis."""
    node, index = call.node.args
    source = call.call_of(node)
    assert source is not None
    if index != 0:
        raise Unsupported(f"no layer here gives result {index} of {source.operator}")
    if source.operator in ("embedding_bag", "_embedding_bag"):
        return tables.bag(source, context)
    if source.operator in ("max", "min"):
        return means.reduced(source.operator)(source, context)
    raise Unsupported(f"no layer here computes {source.operator}")


def _need_tensors(call: Call) -> None:
    if any(not call.is_symbolic(tensor) for tensor in call["tensors"]):
        raise Unsupported("no layer here joins constants to its input")


def _need_same_dtype(call: Call) -> None:
    if dtype_of(call.first) != dtype_of(call.node):
        raise Unsupported(f"no layer here casts {dtype_of(call.first)} to {dtype_of(call.node)}")


def _widens(before: str, after: str) -> bool:
    """Whether a cast of indices keeps every one of them."""
    import numpy as np

    kinds = "int", "uint"
    is_index = before.startswith(kinds) and after.startswith(kinds)
    return is_index and np.can_cast(before, after)


OPERATORS: dict[str, Row] = {
    "_embedding_bag": tables.unpicked,
    "_softmax": over_last_axis("softmax"),
    "_log_softmax": over_last_axis("log_softmax"),
    "_to_copy": identity,
    "_unsafe_view": view,
    "add": products.add,
    "addmm": products.addmm,
    "alias": identity,
    "alpha_dropout": dropout,
    "amax": means.reduced("max"),
    "amin": means.reduced("min"),
    "_native_batch_norm_legit_no_training": norms.batch_norm,
    "batch_norm": norms.batch_norm,
    "bmm": products.matmul,
    "cat": cat,
    "celu": activation("elu", alpha=1),
    "clamp": clamp,
    "clamp_min": clamp,
    "clone": identity,
    "contiguous": identity,
    "detach": identity,
    "div": div,
    "dropout": dropout,
    "einsum": products.einsum,
    "elu": elu,
    "embedding": tables.embedding,
    "exp": activation("exponential"),
    "feature_dropout": dropout,
    "flatten": view,
    "gelu": gelu,
    "getitem": getitem,
    "hardsigmoid": activation("hard_sigmoid"),
    "hardswish": activation("hard_silu"),
    "hardtanh": clamp,
    "index": products.pairs,
    "layer_norm": norms.layer_norm,
    "leaky_relu": leaky_relu,
    "lift_fresh_copy": identity,
    "linalg_vecdot": products.vecdot,
    "linear": products.linear,
    "log_softmax": over_last_axis("log_softmax"),
    "matmul": products.matmul,
    "maximum": merges.maximum,
    "mean": means.reduced("mean"),
    "minimum": merges.minimum,
    "mish": activation("mish"),
    "mm": products.matmul,
    "mul": mul,
    "permute": norms.turned_back,
    "prelu": norms.prelu,
    "relu": activation("relu"),
    "relu6": activation("relu6"),
    "reshape": view,
    "rms_norm": norms.rms_norm,
    "rsub": merges.rsub,
    "selu": activation("selu"),
    "sigmoid": activation("sigmoid"),
    "silu": activation("silu"),
    "slice": identity,
    "softmax": over_last_axis("softmax"),
    "softplus": softplus,
    "squeeze": view,
    "stack": stack,
    "sub": products.sub,
    "sum": means.reduced("sum"),
    "tanh": activation("tanh"),
    "to": identity,
    "transpose": norms.turned_back,
    "tvmlayers::embedding": tables.embedding,
    "tvmlayers::embedding_bag": tables.own_bag,
    "tvmlayers::linear": products.own_linear,
    "type_as": identity,
    "unflatten": view,
    "unsqueeze": view,
    "view": view,
}
"""By the operator's name, its overload left out."""
