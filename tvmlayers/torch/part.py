"""A part of a graph that compiled code computes, with PyTorch's own form of it beside."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from tvmlayers.errors import TvmLayersError
from tvmlayers.interop.torch.calls import Call, with_derived
from tvmlayers.interop.torch.reading import Reading, Source
from tvmlayers.layers import Model
from tvmlayers.runtime.compiled import Compiled
from tvmlayers.torch import kernels
from tvmlayers.torch.kernels import Seen, machine_code
from tvmlayers.torch.tracing import STATIC

MOST_KEPT = 64  # models whose machine code is kept for graphs to come

_codes: OrderedDict[tuple[str, str], Compiled] = OrderedDict()


class Part(nn.Module):  # type: ignore[misc]
    """Computes what `plain` does. Compiled at the first call, which brings the parameters.

    PyTorch computes it where compiled code refuses: `why` says it for all calls, if not None; what
    is wrong with a single call, such as an index out of range, PyTorch says itself.
    """

    def __init__(self, plain: GraphModule, target: str) -> None:
        super().__init__()
        self.plain, self.target = plain, target
        self.why: str | None = None
        self.layers: list[str] = []
        self._inputs = plain.graph.find_nodes(op="placeholder")
        static = [STATIC in node.meta for node in self._inputs]
        self._static = [place for place, is_static in enumerate(static) if is_static]
        self._given = [
            place
            for place, node in enumerate(self._inputs)
            if not static[place] and isinstance(node.meta["val"], Tensor)
        ]
        self._model: Compiled | None = None
        # Of each parameter, its place and whether a tensor is still what was packed.
        self._holds: list[tuple[int, Callable[[Tensor], bool]]] = []

    @property
    def operators(self) -> str:
        """The names of the operators in it."""
        calls = self.plain.graph.nodes
        names = [Call(node, {}).operator for node in calls if node.op == "call_function"]
        return ", ".join(dict.fromkeys(names))

    def forward(self, *arguments: Any) -> Any:
        # What a call of a few microseconds pays for; `_taken` is for the others.
        model = self._model
        for place, holds in self._holds:
            if not holds(arguments[place]):
                model = None
                break
        if model is None and (model := self._taken(arguments)) is None:
            return self.plain(*arguments)
        try:
            return model(*[arguments[place] for place in self._given])
        except TvmLayersError:
            return self.plain(*arguments)

    def _taken(self, arguments: Sequence[Any]) -> Compiled | None:
        """The model with the parameters that there are now; None where PyTorch computes."""
        if self.why is None:
            self._take_weights(arguments)
        return self._model if self.why is None else None

    def _take_weights(self, arguments: Sequence[Any]) -> None:
        """Compile with the parameters that are there now, or pack them for the code that is."""
        with kernels.lock:
            weights = [arguments[place] for place in self._static]
            self.why = next(filter(None, map(_why_not, weights)), None)
            if self.why is not None:
                self._model = None
                return
            seen = [Seen(weight) for weight in weights]
            try:
                model = self._read(arguments)
                if self._model is None:
                    self._model = _code(model, self.target).with_weights(model.weights)
                else:
                    self._model.set_weights(model.weights)
            except TvmLayersError as error:
                self.why, self._model = str(error), None
                return
            self.layers = [layer.name for layer in model.layers]
            self._holds = [
                (place, each.holds) for place, each in zip(self._static, seen, strict=True)
            ]

    def _read(self, arguments: Sequence[Any]) -> Model:
        known = {self._inputs[place]: arguments[place] for place in self._static}
        names = {node: str(node.meta[STATIC]) for node in known}
        nodes = list(self.plain.graph.nodes)
        (end,) = self.plain.graph.find_nodes(op="output")
        made = end.args[0]
        outputs = list(made) if isinstance(made, (list, tuple)) else [made]
        inputs = [self._inputs[place] for place in self._given]
        constants, names = with_derived(nodes, known, names)
        # The same graph has other names for its inputs when it is captured another time.
        names |= {node: f"input_{place}" for place, node in enumerate(inputs)}
        return Reading(Source(nodes, inputs, outputs, constants, names)).model("part")


def _why_not(weight: Tensor) -> str | None:
    """Why a parameter cannot be packed."""
    if type(weight) not in (Tensor, nn.Parameter) or weight.layout is not torch.strided:
        return f"a parameter is {type(weight).__name__} of {weight.layout}"
    if weight.is_inference() or weight.is_shared():
        return "a parameter may change without a trace, in shared memory or as an inference tensor"
    return None


def _code(model: Model, target: str) -> Compiled:
    """The machine code of a model; that of the last models is kept."""
    key = json.dumps(model.get_config(), sort_keys=True), target
    if key not in _codes:
        _codes[key] = machine_code(model, target)
        while len(_codes) > MOST_KEPT:
            _codes.popitem(last=False)
    _codes.move_to_end(key)
    return _codes[key]
