"""The kernel of each kind of layer: expression, space and driver put together."""

from collections.abc import Callable

from tvmlayers import layers
from tvmlayers.codegen.cpu.activation import lower_activation, lower_copy
from tvmlayers.codegen.cpu.bag import lower_bag
from tvmlayers.codegen.cpu.concatenate import lower_concatenate
from tvmlayers.codegen.cpu.dense import lower_dense
from tvmlayers.codegen.cpu.dot import lower_dot, lower_dot_interaction
from tvmlayers.codegen.cpu.kernel import Kernel, Lowered, Use, core, elements
from tvmlayers.codegen.cpu.lookup import lower_embedding
from tvmlayers.codegen.cpu.pooling import lower_pooling
from tvmlayers.codegen.fuse import AnyLayer, PooledLookup
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.schedule import Selector

__all__ = ["Kernel", "Lowered", "Use", "core", "elements", "is_view", "lower", "lower_copy"]

LOWERINGS: dict[type[AnyLayer], Callable[[Use, str, Selector, ArenaPlan], Lowered]] = {
    layers.Embedding: lower_embedding,
    layers.EmbeddingBag: lower_bag,
    PooledLookup: lower_bag,
    layers.Dense: lower_dense,
    layers.Activation: lower_activation,
    layers.GlobalAveragePooling1D: lower_pooling,
    layers.Concatenate: lower_concatenate,
    layers.Dot: lower_dot,
    layers.DotInteraction: lower_dot_interaction,
}


def lower(use: Use, name: str, selector: Selector, arena: ArenaPlan) -> Lowered:
    """The kernel of `use`, named `name`; its packed weights go into `arena`."""
    return LOWERINGS[type(use.layer)](use, name, selector, arena)


def is_view(layer: AnyLayer) -> bool:
    """Whether the layer's output is its input's memory."""
    return layer.is_view or (isinstance(layer, layers.Activation) and layer.activation == "linear")
