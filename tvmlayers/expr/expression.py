"""What an expression hands to the next stage: its tensors, its free sizes, where its results go."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tvm import te
from tvm.ir import Expr
from tvm.tirx import Var

StoreMap = Callable[[Sequence[Expr]], list[Expr]]


@dataclass(frozen=True)
class Place:
    """Where a tensor lies when it is computed in another index space than it is stored in.

    shape: of the stored buffer; at: from computed to stored indices.
    """

    shape: tuple[Expr | int, ...]
    at: StoreMap


@dataclass(frozen=True)
class Expression:
    """A kernel's mathematics, hardware unknown.

    tensors: the placeholders, a scratch that the caller lends if there is one and, last, the
    result; sizes: int64 variables that the caller gives; places: where the scratch or the result
    lie, by name, when that is not where they are computed; checked: name of the stage that holds
    checked row numbers, see `expr.take`; depth: steps of k in an element of a packed weight.
    """

    tensors: tuple[te.Tensor, ...]
    sizes: tuple[Var, ...]
    places: Mapping[str, Place] = field(default_factory=dict)
    checked: "CheckedRows | None" = None
    depth: int = 1


@dataclass(frozen=True)
class CheckedRows:
    """The stage of an expression that turns indices into row numbers of a table.

    stage: its name; indices: the tensor read; count: how many indices there are from the pointer
    on, which is how far a prefetch may read ahead; table: the tensor whose rows are named; rows:
    its number of rows; columns: how many of a row are read, from the first on; flag: whether an
    index outside 0..rows-1 is to be reported.
    """

    stage: str
    indices: te.Tensor
    count: Expr
    table: te.Tensor
    rows: int
    columns: int
    flag: bool


def size(name: str) -> Var:
    """A size that is known only when the kernel is called, int64."""
    return te.var(name, "int64")
