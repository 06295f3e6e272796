"""`explain`: each layer of a model beside what this machine can do at the most."""

from __future__ import annotations

from tvmlayers import targets
from tvmlayers.codegen.fold import folded
from tvmlayers.errors import ConfigError
from tvmlayers.layers import Layer, Model, as_model
from tvmlayers.numeric import positive
from tvmlayers.roofline import measuring
from tvmlayers.roofline.explanation import Explanation, LayerRow
from tvmlayers.roofline.roofs import Roofs, measured
from tvmlayers.roofline.work import Sizes, Work, works
from tvmlayers.runtime.call import ModelCall
from tvmlayers.runtime.threads import count as count_threads
from tvmlayers.testing.rebuild import model_of


def explain(
    model: Model | Layer | ModelCall,
    *,
    batch: int = 32,
    length: int = 32,
    threads: int | None = None,
    measure: bool = False,
    roofs: Roofs | None = None,
) -> Explanation:
    """Each layer of a model on the roofline of this machine's CPU.

    A row gives the layer's floating point operations and bytes in one call, its arithmetic
    intensity, whether arithmetic or memory limits it, and the least time that this leaves. Layers
    that are compiled into one kernel are one row. Print the result, or draw it with its `plot`.

    model: a model, a layer whose input shape is known, or a compiled model; batch: samples in a
    call; length: of each other axis without a fixed length, and the indices of a bag; threads: by
    default the physical cores; measure: whether each layer is also compiled alone and timed, and
    the model as a whole; roofs: what the machine can do on so many threads, where that is known,
    such as `roofs` of an earlier explanation. By default it is measured, which takes seconds.

    ConfigError for a model whose input shape is not known, or whose layers are all views;
    TargetError on a CPU without a target.
    S. Williams, A. Waterman, D. Patterson, "Roofline", Communications of the ACM 52(4), 2009.
    """
    batch = positive("explain", "batch", batch)
    length = positive("explain", "length", length)
    given = model_of(model) if isinstance(model, ModelCall) else as_model(model)
    built, machine = folded(given, halves=False), targets.native()
    sizes = Sizes(built.graph, batch, length)
    found = works(built, sizes)
    if not found:
        raise ConfigError(f"no layer of {built.name!r} does any work: all of them are views")
    if roofs is None:
        roofs = measured(found, count_threads(threads))
    elif threads not in (None, roofs.threads):
        raise ConfigError(
            f"the roofs are those of {roofs.threads} threads, got threads={threads}: leave one out"
        )
    rows = tuple(_row(work, roofs, sizes, measure) for work in found)
    seconds = measuring.model_seconds(built, found, sizes, roofs.threads) if measure else None
    return Explanation(built.name, machine.name, batch, length, roofs, rows, seconds)


def _row(work: Work, roofs: Roofs, sizes: Sizes, measure: bool) -> LayerRow:
    limit = roofs.limit(work)
    seconds = measuring.layer_seconds(work, sizes, roofs.threads) if measure else None
    return LayerRow(
        layer=work.name,
        kind=work.kind,
        dtype=work.dtype,
        flops=work.flops,
        bytes=work.moved,
        bound=limit.bound,
        level=roofs.level(work.held).name,
        least_seconds=limit.seconds,
        seconds=seconds,
    )
