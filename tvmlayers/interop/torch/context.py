"""The layers of a program, named after its modules and shared as its weights are."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tvmlayers.errors import WeightsError
from tvmlayers.interop.building import AnyLayer, Builder, Unsupported
from tvmlayers.interop.torch.calls import Call, same_storage
from tvmlayers.interop.torch.quantized import Fewer
from tvmlayers.layers import Dense, Embedding, EmbeddingBag, Layer
from tvmlayers.layers.graph import SymbolicTensor

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import Node


class Context:
    """What the rows of the table make layers with.

    flat: the inputs that turned out to have no batch axis, as the indices of a bag with offsets.
    masked: the indices whose zeros are left out of a mean.
    """

    def __init__(
        self,
        builder: Builder,
        constants: Mapping[Node, Tensor],
        names: Mapping[Node, str],
        fewer: Mapping[str, Fewer],
    ) -> None:
        """As `reading.Source` has them."""
        self.builder, self.constants, self._names = builder, constants, names
        self._fewer = fewer
        self.flat: set[Node] = set()
        self.masked: set[Node] = set()

    def plain(self, call: Call, kind: Callable[..., Layer], *args: Any) -> Layer:
        """A layer without weights. One module of torch.nn that is called twice is one layer."""
        path, _ = call.module
        if call.is_torch_module:
            key: Hashable = (path, kind, repr(args))
            return self.builder.layer(key, path, lambda name: kind(*args, name=name))
        name = f"{path}.{call.node.name}" if path else call.node.name
        return self.builder.layer(object(), name, lambda name: kind(*args, name=name))

    def dense(self, call: Call, weight: str, kernel: Tensor, bias: Tensor | None) -> Dense:
        """The Dense of this kernel (in, out) and bias; weight: the argument that it comes from."""
        if kernel.ndim != 2 or (bias is not None and bias.dtype != kernel.dtype):
            raise Unsupported("its weight is no matrix, or its bias has another dtype")
        features, units = kernel.shape
        has_bias = bias is not None
        stored, kept = self._kept(call, weight, kernel)

        def make(name: str) -> Dense:
            dtype = str(kernel.dtype)
            given: dict[str, Any] = {"use_bias": has_bias, "input_dim": features, "dtype": dtype}
            return Dense(units, **given, stored=stored, name=name)

        return self._weighted(call, weight, make, "dense", *kept, *([bias] if has_bias else []))

    def embedding(self, call: Call, oob: str) -> Embedding:
        """The Embedding of a call of aten::embedding."""
        table = self.table(call)
        rows, columns = table.shape
        uses = (self._call(user) for user in call["weight"].users)
        is_masked = any(use.arguments.get("indices") in self.masked for use in uses)
        stored, kept = self._kept(call, "weight", table)

        def make(name: str) -> Embedding:
            dtype = str(table.dtype)
            given: dict[str, Any] = {"mask_zero": is_masked, "oob": oob, "dtype": dtype}
            return Embedding(rows, columns, **given, stored=stored, name=name)

        return self._weighted(call, "weight", make, ("embedding", oob), *kept)

    def bag(self, call: Call, **options: Any) -> Callable[..., SymbolicTensor]:
        """What calls the EmbeddingBag over the weight of a call, which is made then."""

        def pool(*tensors: SymbolicTensor, **named: SymbolicTensor | None) -> SymbolicTensor:
            table = self.table(call)
            rows, columns = table.shape
            stored, kept = self._kept(call, "weight", table)

            def make(name: str) -> EmbeddingBag:
                given = {**options, "dtype": str(table.dtype)}
                return EmbeddingBag(rows, columns, **given, stored=stored, name=name)

            kind = ("bag", *options.items())
            made: SymbolicTensor = self._weighted(call, "weight", make, kind, *kept)(
                *tensors, **named
            )
            return made

        return pool

    def _call(self, node: Node) -> Call:
        return Call(node, self.constants)

    def normalisation(
        self,
        call: Call,
        make: Callable[[str], Layer],
        options: Hashable,
        *tensors: Tensor | None,
    ) -> Layer:
        """The layer with those of the tensors as its weights that there are; options: what makes
        layers of the same weights different ones."""
        given = [tensor for tensor in tensors if tensor is not None]
        named = (n for n in ("weight", "bias", "running_mean") if call.arguments.get(n) is not None)
        weight = next(named, None)
        if weight is None:
            return self.plain(call, make)
        return self._weighted(call, weight, make, options, *given)

    def table(self, call: Call) -> Tensor:
        """The table that a call looks rows up in."""
        table = call.constant("weight")
        if table is None:
            raise Unsupported("its table depends on the inputs")
        return table

    def _kept(self, call: Call, weight: str, floats: Tensor) -> tuple[str | None, Sequence[Tensor]]:
        """How the weight of a call comes: in fewer bits, or None for as it is."""
        return self._fewer.get(self._names[call[weight]], (None, [floats]))

    def _weighted(
        self,
        call: Call,
        weight: str,
        make: Callable[[str], AnyLayer],
        kind: Hashable,
        *tensors: Tensor | None,
    ) -> AnyLayer:
        parameter = self._names[call[weight]]
        for tensor in tensors:
            if tensor is not None and tensor.is_meta:
                raise WeightsError(
                    f"{parameter} is on the meta device and has no numbers: load its weights first"
                )
        owner = parameter.rpartition(".")[0] if parameter.endswith(".weight") else parameter
        name = call.module[0] if call.is_torch_module else owner
        return self.builder.layer((kind, same_storage(tensors)), name, make, tensors)
