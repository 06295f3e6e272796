"""A part of a graph that compiled code computes, with PyTorch's own form of it beside."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from operator import itemgetter
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
from tvmlayers.torch.kernels import Seen, machine_code, unchanged
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
        self._seen: list[Seen] = []  # the parameters that were packed
        self._own = self.taking(range(len(self._inputs)))

    @property
    def operators(self) -> str:
        """The names of the operators in it."""
        calls = self.plain.graph.nodes
        names = [Call(node, {}).operator for node in calls if node.op == "call_function"]
        return ", ".join(dict.fromkeys(names))

    def forward(self, *arguments: Any) -> Any:
        return self._own(*arguments)[0]

    def taking(self, places: Sequence[int]) -> Callable[..., tuple[Any]]:
        """A function that gives (what `forward` gives,) for those of its arguments.

        What a call of a few microseconds pays for is done once, here, or in one Python frame:
        under `torch.compile` a frame takes longer than elsewhere. `_taken` is for other calls.
        """
        mine = _items(places)
        given = _items([places[place] for place in self._given])
        static = _items([places[place] for place in self._static])

        def call(*arguments: Any) -> tuple[Any]:
            model = self._model
            if model is None or not unchanged(static(arguments), self._seen):
                model = self._taken(mine(arguments))
            if model is not None:
                try:
                    return (model(*given(arguments)),)
                except TvmLayersError:
                    pass
            return (self.plain(*mine(arguments)),)

        return call

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
            self._seen = seen

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


def _items(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """What takes these places of a tuple, as a tuple, without a Python frame of its own."""
    if len(places) > 1:
        return itemgetter(*places)
    return itemgetter(slice(places[0], places[0] + 1) if places else slice(0))


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
