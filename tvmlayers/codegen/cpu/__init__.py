"""The kernel of each kind of layer: expression, space and driver put together."""

from collections.abc import Callable

from tvmlayers import layers
from tvmlayers.codegen.cpu.activation import lower_copy
from tvmlayers.codegen.cpu.bag import lower_bag
from tvmlayers.codegen.cpu.kernel import Kernel, Lowered, Use, core, elements
from tvmlayers.codegen.cpu.normalization import lower_normalization
from tvmlayers.codegen.fuse import AnyLayer, NormalizedMerge, PooledLookup
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.operations import lowering_of
from tvmlayers.schedule import Selector

__all__ = ["Kernel", "Lowered", "Use", "core", "elements", "is_view", "lower", "lower_copy"]


def lower(use: Use, name: str, selector: Selector, arena: ArenaPlan) -> Lowered:
    """The kernel of `use`, named `name`; its packed weights go into `arena`."""
    make: Callable[..., Lowered]
    if isinstance(use.layer, PooledLookup):
        make = lower_bag
    elif isinstance(use.layer, NormalizedMerge):
        make = lower_normalization
    else:
        make = lowering_of(use.layer, "cpu")
    return make(use, name, selector, arena)


def is_view(layer: AnyLayer) -> bool:
    """Whether the layer's output is its input's memory."""
    return layer.is_view or (isinstance(layer, layers.Activation) and layer.activation == "linear")
