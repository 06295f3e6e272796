"""torch.compile: static shapes, compiled under inference_mode, with and without frozen weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch._dynamo.config
import torch._inductor.config
import torch.nn.functional as F
from torch import Tensor, nn

from bench.peers import Unsupported
from bench.reference import activation
from bench.settings import Settings
from bench.timing import Side
from bench.twins import TWINS, frozen_linear
from bench.work import BagWork, DenseWork, EmbeddingWork, ModelWork
from tvmlayers.runtime.tensors import to_torch

NAME = "torch.compile"

Function = Callable[..., Tensor]
REDUCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "max": torch.amax,
    "min": torch.amin,
}


def version() -> str:
    return str(torch.__version__)


def set_up(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    # Compiling in this process: a pool of compilers would be there while others are timed.
    torch._inductor.config.compile_threads = 1
    # Past the limit it would go on eagerly and say nothing.
    torch._dynamo.config.fail_on_recompile_limit_hit = True


@dataclass(frozen=True)
class Backend:
    """The sides of a peer that torch.compile calls by the name of `backend`.

    A frozen module has weights of its own: a backend may pack them where they are.
    """

    name: str
    backend: str = "inductor"

    def sides(self) -> dict[str, Callable[[Any], list[Side]]]:
        """What a peer has as SIDES."""
        kinds: dict[str, Callable[[Any], list[Side]]] = {
            "dense": self._dense,
            "embedding": self._embedding,
            "bag": self._bag,
            "model": self._model,
        }
        return {kind: partial(_anew, sides) for kind, sides in kinds.items()}

    def _dense(self, work: DenseWork) -> list[Side]:
        """The kernel as an argument; frozen too where there is one, as (out, in) in both."""
        after = activation(work.case)
        x, bias = to_torch(work.x), to_torch(work.bias)
        linears = [frozen_linear(to_torch(kernel), bias) for kernel in work.kernels]

        def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return after(F.linear(x, weight, bias))

        sides = [self._side("", layer, [(x, linear.weight, bias) for linear in linears])]
        if len(linears) == 1:  # copies could share the code of the first, and with it its weights
            own = frozen_linear(to_torch(work.kernels[0]), bias)
            sides.append(self._side("frozen", _Layer(own, after), [(x,)], freezing=True))
        return sides

    def _embedding(self, work: EmbeddingWork) -> list[Side]:
        table = torch.from_numpy(work.table)

        # A function of torch's own is not compiled when it is the outermost one.
        def lookup(ids: Tensor, table: Tensor) -> Tensor:
            return F.embedding(ids, table)

        return [self._side("", lookup, [(torch.from_numpy(ids), table) for ids in work.indices])]

    def _bag(self, work: BagWork) -> list[Side]:
        """embedding_bag, which is called as it is; bags of one length as a fused reduction too."""
        table, mode = torch.from_numpy(work.table), work.case.mode
        sides = []
        if mode != "min":  # which embedding_bag does not know
            sets = [
                (torch.from_numpy(ids), table, torch.from_numpy(starts))
                for ids, starts in zip(work.flat, work.offsets, strict=True)
            ]

            def bags(ids: Tensor, table: Tensor, starts: Tensor) -> Tensor:
                return F.embedding_bag(ids, table, starts, mode=mode)

            # Ragged sets differ in length: one function for all of them, not one for each.
            sides.append(self._side("embedding_bag", bags, sets, dynamic=work.case.ragged))
        if not work.case.ragged:
            reduce = REDUCTIONS[mode]

            def gathered(ids: Tensor, table: Tensor) -> Tensor:
                return reduce(F.embedding(ids, table), 1)

            squares = [(torch.from_numpy(ids), table) for ids in work.indices]
            sides.append(self._side("gather", gathered, squares))
        if not sides:
            raise Unsupported("embedding_bag knows no minimum")
        return sides

    def _model(self, work: ModelWork) -> list[Side]:
        inputs = [tuple(torch.from_numpy(array) for array in arrays) for arrays in work.inputs]
        twin, own = (TWINS[work.case.name](work.weights).eval() for _ in range(2))
        return [
            self._side("", twin, inputs),
            self._side("frozen", own, inputs, freezing=True),
        ]

    def _side(
        self,
        variant: str,
        function: Function,
        inputs: Sequence[tuple[Tensor, ...]],
        freezing: bool = False,
        dynamic: bool = False,
    ) -> Side:
        """The compiled function on each of the inputs, called once so that it is compiled here."""

        # A function for each side: those of one backend share what is compiled of the same module.
        def backend(graph: Any, inputs: list[Tensor]) -> Any:
            return torch._dynamo.lookup_backend(self.backend)(graph, inputs)

        compiled = torch.compile(function, backend=backend, dynamic=dynamic)
        calls = [partial(compiled, *tensors) for tensors in inputs]
        # Dynamo asks for `freezing` too, so that it is no option of the backend. zentorch sets
        # passes of its own, which other backends would run from then on.
        options = {"freezing": freezing, "joint_custom_post_pass": None}
        with torch._inductor.config.patch(options), torch.inference_mode():
            calls[0]()
        return Side(self.name, calls, torch.inference_mode, variant)


def _anew(sides: Callable[[Any], list[Side]], work: Any) -> list[Side]:
    # What earlier cases compiled counts against the limit of recompiling.
    torch._dynamo.reset()
    return sides(work)


SIDES = Backend(NAME).sides()


class _Layer(nn.Module):
    """A module, because only a module's weights are frozen."""

    def __init__(self, linear: nn.Linear, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = linear
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.linear(x))
