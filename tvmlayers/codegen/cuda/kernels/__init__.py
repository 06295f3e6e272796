"""The kernel of each kind of layer on a GPU: expression, space and launching function."""

from collections.abc import Callable

from tvmlayers import layers
from tvmlayers.codegen.cpu import Lowered, Use
from tvmlayers.codegen.cuda.kernels.dense import lower_dense
from tvmlayers.codegen.cuda.kernels.lookup import (
    lower_bag,
    lower_embedding,
)
from tvmlayers.codegen.cuda.kernels.rows import (
    lower_activation,
    lower_concatenate,
    lower_copy,
    lower_dot,
    lower_dot_interaction,
    lower_pooling,
)
from tvmlayers.codegen.fuse import AnyLayer, PooledLookup
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.schedule.cuda import CudaSelector

__all__ = ["lower", "lower_copy"]

LOWERINGS: dict[type[AnyLayer], Callable[[Use, str, CudaSelector, ArenaPlan], Lowered]] = {
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


def lower(use: Use, name: str, selector: CudaSelector, arena: ArenaPlan) -> Lowered:
    """The kernel of `use`, named `name`; its packed weights go into `arena`."""
    return LOWERINGS[type(use.layer)](use, name, selector, arena)
