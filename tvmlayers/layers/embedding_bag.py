"""EmbeddingBag: rows of a table picked by index and reduced in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvmlayers.errors import ConfigError, DTypeError, ShapeError
from tvmlayers.layers import initializers
from tvmlayers.layers.checks import index_dtype, one_of
from tvmlayers.layers.embedding import Table
from tvmlayers.layers.graph import BATCH, Dim, Shape, Symbol, SymbolicTensor, same_length

MODES = ("mean", "sum", "max", "min")
ROLES = ("indices", "offsets", "per_sample_weights")


class EmbeddingBag(Table):
    """Maps indices to one vector of output_dim for each bag; an empty bag gives zeros.

    Called as `bag(indices)` on (batch, length), each row a bag, or as `bag(indices, offsets)` on
    (total,) and (batch,), where bag i is indices[offsets[i]:offsets[i + 1]].

    mode: how the rows of a bag become one: "mean", "sum", "max" or "min". A NaN in a row makes the
        result NaN there in every mode, wherever in the bag the row comes, as with numpy.max and
        torch.amax. PyTorch's EmbeddingBag keeps a NaN of "max" only in a bag's first row.
    padding_idx: a row that begins as zeros and is left out of every bag.
    include_last_offset: offsets are (batch + 1,) and end with the number of indices.
    per_sample_weights: in a call, a factor for each index, of the indices' shape; "sum" and
        "mean" only, where the mean is then the weighted average.
    The other arguments are explained at `Table`.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: initializers.InitializerLike = "uniform",
        *,
        mode: str = "mean",
        padding_idx: int | None = None,
        include_last_offset: bool = False,
        oob: str = "raise",
        dtype: object = "float32",
        name: str | None = None,
        seed: int | None = None,
        weights: Any = None,
        input_shape: Sequence[int | None] | None = None,
        stored: str | None = None,
    ) -> None:
        super().__init__(
            input_dim,
            output_dim,
            embeddings_initializer,
            padding_idx=padding_idx,
            oob=oob,
            dtype=dtype,
            name=name,
            seed=seed,
            weights=weights,
            input_shape=input_shape,
            stored=stored,
        )
        self.mode = one_of("mode", mode, MODES)
        self.include_last_offset = bool(include_last_offset)

    def bind(
        self, args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        positional = dict(zip(ROLES, args, strict=False))
        unknown = [name for name in named if name not in ROLES or name in positional]
        merged = {**named, **positional}
        given = {role: value for role, value in merged.items() if value is not None}
        if len(args) > len(ROLES) or unknown or "indices" not in given:
            raise ConfigError(
                f"{self.describe()} is called with indices, offsets=None and "
                f"per_sample_weights=None, got {len(args)} positional and {list(named)}"
            )
        if "per_sample_weights" in given and self.mode not in ("sum", "mean"):
            raise ConfigError(
                f"{self.describe()} takes per_sample_weights with mode sum or mean, "
                f"its mode is {self.mode}"
            )
        roles = tuple(role for role in ROLES if role in given)
        return tuple(given[role] for role in roles), roles

    def replay(self, inputs: tuple[SymbolicTensor, ...], roles: tuple[str, ...]) -> SymbolicTensor:
        output: SymbolicTensor = self(**dict(zip(roles, inputs, strict=True)))
        return output

    def record(self, inputs: tuple[SymbolicTensor, ...], roles: tuple[str, ...]) -> SymbolicTensor:
        by_role = dict(zip(roles, inputs, strict=True))
        self._check_dtypes(by_role)
        if "offsets" in by_role:
            self._check_ragged(by_role["indices"], by_role["offsets"])
        elif inputs[0].rank != 2:
            raise ShapeError(
                f"{self.describe()} expected indices of shape (batch, length), or (total,) with "
                f"offsets, got {inputs[0].shape}"
            )
        factors = by_role.get("per_sample_weights")
        if factors is not None and not (
            factors.rank == inputs[0].rank and all(map(same_length, inputs[0].axes, factors.axes))
        ):
            raise ShapeError(
                f"{self.describe()} expected per_sample_weights of the indices' shape "
                f"{inputs[0].dims}, got {factors.dims}"
            )
        return super().record(inputs, roles)

    def _check_dtypes(self, by_role: Mapping[str, SymbolicTensor]) -> None:
        if "offsets" in by_role:
            index_dtype(self.describe(), by_role["offsets"].settle_dtype("int64"))
        if "per_sample_weights" in by_role:
            got = by_role["per_sample_weights"].settle_dtype(self.dtype)
            if got != self.dtype:
                raise DTypeError(
                    f"{self.describe()} expected {self.dtype} per_sample_weights, got {got}"
                )

    def _check_ragged(self, indices: SymbolicTensor, offsets: SymbolicTensor) -> None:
        if indices.rank != 1 or offsets.rank != 1 or offsets.node is not None:
            raise ShapeError(
                f"{self.describe()} expected indices (total,) and offsets (batch,) straight from "
                f"Inputs, got {indices.shape} and {offsets.shape}"
            )
        if indices.axes[0] is BATCH:
            raise ShapeError(
                f"{self.describe()} has more indices than bags, so the indices have no batch "
                f"axis: make them with tl.Input((None,), batch=False)"
            )

    def output_axes(self, inputs: tuple[SymbolicTensor, ...]) -> tuple[Dim, ...]:
        bags = inputs[0].axes[0]
        if inputs[0].rank == 1:
            bags = inputs[1].axes[0]
            if self.include_last_offset:
                bags = bags.less_one() if isinstance(bags, Symbol) else bags - 1
        return (bags, self.output_dim)

    def implied_input(self) -> tuple[Shape, bool] | None:
        return super().implied_input() or ((None, None), False)

    def free_input(self, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
        # The 2-D form stands for the layer; ragged calls are further ways into the same model.
        return tuple((None, None) if len(shape) < 3 else shape for shape in shapes)

    def flops(self, inputs: tuple[SymbolicTensor, ...], output: SymbolicTensor) -> int:
        """1 per element of each row looked up, 2 with per_sample_weights, and a mean's division."""
        factors = 2 if inputs[-1].dtype == self.dtype else 1
        rows = inputs[0].elements * self.output_dim
        return factors * rows + (self.mode == "mean") * output.elements

    def config(self) -> dict[str, Any]:
        own = {"mode": self.mode, "include_last_offset": self.include_last_offset}
        return {**super().config(), **own}
