"""What a step does: kernels over rows forwards and backwards, then updates of the weights.

The parts of the layers (`parts`) write on the tape: a kernel for what they compute, and for later
what makes the gradients of their inputs from that of their output, and updates their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from tvmlayers.codegen.cpu import Kernel
from tvmlayers.codegen.cpu.backward import sum_kernel
from tvmlayers.codegen.cpu.square_sums import PARTS
from tvmlayers.codegen.cpu.units import Units
from tvmlayers.codegen.weights import ArenaPlan, Packed
from tvmlayers.layers.graph import SymbolicTensor
from tvmlayers.schedule import Selector
from tvmlayers.training.optimizers import Optimizer

Dims = tuple[int | str, ...]
ITERATIONS = "iterations"  # the name of the count of steps in the arena
MOST_NUMBERS = 5  # of an optimiser's step: three of Adam, and what two norms leave
FIRST_ROW = "first row"  # as a size: the place in the batch of the first row of a block


@dataclass(eq=False)
class Value:
    """A tensor of a step, the batch its first axis where it has one row for each sample.

    base: the value in whose memory it lies, where that is another; given: it comes with the call;
    offset: where it lies in the arena; needs: whether a weight that is trained depends on its
    gradient.
    """

    name: str
    dims: Dims
    dtype: str
    base: Value | None = None
    given: bool = False
    offset: int | None = None
    needs: bool = False

    @property
    def root(self) -> Value:
        """The value in whose memory it lies."""
        return self if self.base is None else self.base.root

    @property
    def has_rows(self) -> bool:
        """Whether it has one row for each sample."""
        return bool(self.dims) and self.dims[0] == "n"


@dataclass
class Run:
    """A kernel or work in units, with the values that it takes, in order.

    sizes: numbers that it takes besides, each the product of some axes.
    """

    what: Kernel | Units
    values: tuple[Value, ...]
    checks: tuple[dict[str, Any], ...] = ()
    sizes: dict[str, Dims] = field(default_factory=dict)


@dataclass
class Phase:
    """Work that may go on at the same time: kernels over rows, block by block, and work in units.

    All of it is done before the next phase begins.
    """

    rows: list[Run] = field(default_factory=list)
    units: list[Run] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """All work."""
        return [*self.units, *self.rows]


@dataclass(frozen=True)
class Kept:
    """A tensor of the arena. role: "weight", "state" or "derived" from another; plain: its shape
    before it was packed; layout: what `artifact.panels` says of it."""

    role: str
    plain: tuple[int, ...]
    layout: dict[str, Any] | None = None


@dataclass(frozen=True)
class Numbers:
    """The numbers of an optimiser's step: those of its rule, then what each norm leaves."""

    value: Value
    of_table: bool
    norms: tuple[str, ...]


Backward = Callable[[Value], Sequence["Value | None"]]
"""From the gradient of a layer's output to those of its inputs; None where there is none."""


class Tape:
    """The kernels and updates of one step, in the order in which they come."""

    def __init__(self, selector: Selector, optimizer: Optimizer, tables: Optimizer) -> None:
        """optimizer: of all weights but those of `tables`' optimiser."""
        self.selector, self.target = selector, selector.target
        self.optimizer, self.tables = optimizer, tables
        self.arena = ArenaPlan()
        self.phases = [Phase()]
        self.updates = Phase()
        # Before the updates, where gradients are clipped by norm.
        self.collecting = [Phase(), Phase()]
        self.norms: dict[str, list[Value]] = {}
        self._is_whole = False  # whether the last phase is of units that need the whole batch
        self.values: list[Value] = []
        self.kept: dict[str, Kept] = {}
        self.logits: set[int] = set()
        self.numbers: list[Numbers] = []
        self.masks: dict[int, Value] = {}
        self.drops = 0
        self._uses: dict[str, tuple[Callable[[list[Any]], None], list[Any]]] = {}
        self._count = 0

    def name(self, what: str) -> str:
        """A new name for a function."""
        self._count += 1
        return f"s{self._count}_{what}"

    def value(self, name: str, dims: Dims, dtype: str, *, needs: bool = False) -> Value:
        """A tensor that the step keeps in its scratch."""
        made = Value(name, dims, dtype, needs=needs)
        self.values.append(made)
        return made

    def view(self, of: Value, dims: Dims) -> Value:
        """The same memory with other axes."""
        return Value(of.name, dims, of.dtype, base=of, needs=of.needs)

    def call(self, kernel: Kernel, *values: Value, **sizes: Dims) -> None:
        """A kernel over rows, the last value its result; sizes: what it takes after its scalars."""
        if self._is_whole:
            self.phases.append(Phase())
            self._is_whole = False
        self.phases[-1].rows.append(Run(kernel, values, kernel.checks, sizes))

    def prepare(self, units: Units, *values: Value, **sizes: Dims) -> None:
        """Work that needs the inputs alone."""
        self.phases[0].units.append(Run(units, values, sizes=sizes))

    def gather(self, units: Units, *values: Value, **sizes: Dims) -> None:
        """Work that needs all rows of what was made so far; what comes next may need its result."""
        if not self._is_whole:
            self.phases.append(Phase())
            self._is_whole = True
        self.phases[-1].units.append(Run(units, values, sizes=sizes))

    def update(self, units: Units, *values: Value, **sizes: Dims) -> None:
        """Work that follows when all gradients are there and nothing was refused."""
        self.updates.units.append(Run(units, values, sizes=sizes))

    @property
    def runs(self) -> list[Run]:
        """All work of the step."""
        phases = (*self.phases, *self.collecting, self.updates)
        return [run for phase in phases for run in phase.runs]

    def collect(self, units: Units, *values: Value, **sizes: Dims) -> None:
        """Work that gives gradients of weights alone, or sums of their squares."""
        self.collecting[0].units.append(Run(units, values, sizes=sizes))

    def sum_squares(self, units: Units, *values: Value, **sizes: Dims) -> None:
        """Work that sums the squares of gradients that were collected."""
        self.collecting[1].units.append(Run(units, values, sizes=sizes))

    def squares(self, norm: str) -> Value:
        """What takes sums of squares that belong to a norm, of that name."""
        made = Value("squares", (PARTS,), "float64")
        self.norms.setdefault(norm, []).append(made)
        return made

    def follow(self, weights: str, update: Callable[[list[Any]], None], use: object) -> None:
        """Weights, by the name of their layer, follow what `use` stands for: `finish` calls
        `update` with all uses of theirs."""
        self._uses.setdefault(weights, (update, []))[1].append(use)

    def finish(self) -> None:
        """Write the updates, when the gradients of all uses are there."""
        for update, uses in self._uses.values():
            update(uses)

    def weight(self, name: str) -> Value:
        """A weight or state in the arena."""
        size, dtype = self.arena.size(name), self.arena.dtype(name)
        return Value(name, (size,), dtype, offset=self.arena.offsets[name])

    def keep(self, name: str, packed: Packed, role: str, plain: tuple[int, ...]) -> Value:
        """A tensor that stays in the arena between calls; see `Kept`."""
        self.arena.add(name, packed)
        self.kept.setdefault(name, Kept(role, plain, packed.layout))
        return self.weight(name)

    def states(self, of: Value, names: Sequence[str], begin: float) -> list[Value]:
        """The states of a weight, laid out as it is, which begin as so much."""
        (size,) = of.dims
        assert isinstance(size, int)
        like = self.kept[of.name]
        packed = Packed((size,), of.dtype, filled_with(begin), like.layout)
        return [self.keep(f"{of.name}:{name}", packed, "state", like.plain) for name in names]

    def numbers_of(self, dtype: str, *, of_table: bool, norms: tuple[str, ...] = ()) -> Value:
        """The numbers of a step of an optimiser, in a dtype; norms: by which it clips."""
        for numbers in self.numbers:
            own = numbers.value.dtype, numbers.of_table, numbers.norms
            if own == (dtype, of_table, norms):
                return numbers.value
        made = Value(f"numbers_{dtype}", (MOST_NUMBERS,), dtype)
        self.numbers.append(Numbers(made, of_table, norms))
        return made

    def sum(self, gradients: Sequence[Value]) -> Value:
        """The sum of the gradients that a tensor gets from all its readers."""
        total, *others = gradients
        for other in others:
            made = self.value("sum", total.dims, total.dtype, needs=True)
            self.call(sum_kernel(self.name("sum"), total.dtype), total, other, made)
            total = made
        return total


def filled_with(number: float) -> Callable[[NDArray[Any]], None]:
    """What puts a number into all elements of an array."""

    def fill(out: NDArray[Any]) -> None:
        out[...] = number

    return fill


def dims_of(tensor: SymbolicTensor) -> Dims:
    """The axes of a tensor of the graph."""
    return tensor.dims
