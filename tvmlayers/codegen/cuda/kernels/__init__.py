"""The kernel of each kind of layer on a GPU: expression, space and launching function."""

from collections.abc import Callable

from tvmlayers.codegen.cpu import Lowered, Use
from tvmlayers.codegen.cuda.kernels.lookup import lower_bag
from tvmlayers.codegen.cuda.kernels.rows import lower_copy
from tvmlayers.codegen.fuse import NormalizedMerge, PooledLookup
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.operations import lowering_of
from tvmlayers.schedule.cuda import CudaSelector

__all__ = ["lower", "lower_copy"]


def lower(use: Use, name: str, selector: CudaSelector, arena: ArenaPlan) -> Lowered:
    """The kernel of `use`, named `name`; its packed weights go into `arena`."""
    if isinstance(use.layer, PooledLookup):
        return lower_bag(use, name, selector, arena)
    layer = use.layer
    if isinstance(layer, NormalizedMerge):
        layer = layer.normalization  # whose row of the table has the kernel of both
    make: Callable[..., Lowered] = lowering_of(layer, "cuda")
    return make(use, name, selector, arena)
