"""The time that a layer, or a whole model, takes on this machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvmlayers.codegen import compile
from tvmlayers.layers import Model
from tvmlayers.layers.graph import BATCH, Symbol, SymbolicTensor
from tvmlayers.roofline.work import Sizes, Work, draw, nodes_of
from tvmlayers.tune.timing import Call, block_calls, compare

MOST_TURNS = 32


def layer_seconds(work: Work, sizes: Sizes, threads: int) -> float:
    """Seconds of a call of one layer, compiled alone and called on inputs of its own."""
    return model_seconds(_alone(work), [work], sizes, threads)


def model_seconds(model: Model, works: Sequence[Work], sizes: Sizes, threads: int) -> float:
    """Seconds of a call of a model, which does `works`, on a few inputs in turn."""
    compiled = compile(model, "native", threads)
    # As many inputs as it takes to read most of a table: else rows would wait in a cache.
    turns = min(MOST_TURNS, max(work.held // work.moved for work in works))
    rng = np.random.default_rng(0)
    bound = [compiled.bind(*draw(model, sizes, rng)) for _ in range(turns)]
    call = Call(lambda each: each(), [(each,) for each in bound])
    seconds, _ = compare(call, [], block_calls(call))
    return seconds


def _alone(work: Work) -> Model:
    """A model of what the step does, with the same weights."""
    inputs = {tensor: _input_like(tensor) for tensor in work.step.inputs}
    made = dict(inputs)
    for node in nodes_of(work.step):
        replayed = node.layer.replay(tuple(made[tensor] for tensor in node.inputs), node.roles)
        made[node.output] = replayed
    return Model(list(inputs.values()), made[work.step.output])


def _input_like(tensor: SymbolicTensor) -> SymbolicTensor:
    """An input with the axes of a tensor; bags that offsets with a last one made are the batch."""
    axes = (BATCH if isinstance(axis, Symbol) and axis.base else axis for axis in tensor.axes)
    return SymbolicTensor(tuple(axes), tensor.dtype)
