"""The roofs: how many operations this machine does in a second, and how many bytes it reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvmlayers.dtypes import wide
from tvmlayers.errors import ConfigError
from tvmlayers.targets import Target, native

if TYPE_CHECKING:
    from tvmlayers.roofline.work import Work

COMPUTE, MEMORY = "compute", "memory"


@dataclass(frozen=True)
class Level:
    """A level of the memory. holds: its bytes, None for the last; rate: bytes read a second."""

    name: str
    holds: int | None
    rate: float


@dataclass(frozen=True)
class Limit:
    """The least seconds of a layer. bound: COMPUTE or MEMORY, whichever takes longer."""

    bound: str
    seconds: float


@dataclass(frozen=True)
class Roofs:
    """What a machine can do at the most.

    flops: floating point operations a second by dtype; levels: from the nearest to the farthest,
    each of which holds more than the one before; threads: of all of these numbers.
    """

    flops: Mapping[str, float]
    levels: tuple[Level, ...]
    threads: int

    def __post_init__(self) -> None:
        rates = [*self.flops.values(), *(level.rate for level in self.levels)]
        if not self.flops or not self.levels or not all(rate > 0 for rate in rates):
            raise ConfigError(
                "roofs are operations a second for one dtype or more, and bytes a second for one "
                f"level or more, all above 0; got {dict(self.flops)} and {list(self.levels)}"
            )

    def level(self, held: int) -> Level:
        """The nearest level that holds so many bytes."""
        fitting = (each for each in self.levels if each.holds is None or held <= each.holds)
        return next(fitting, self.levels[-1])

    def peak(self, dtype: str) -> float:
        """Operations a second on numbers of `dtype`; those of 16 bits are computed in float32."""
        try:
            return self.flops[wide(dtype)]
        except KeyError:
            raise ConfigError(
                f"the roofs have no operations a second for {wide(dtype)}, only for "
                f"{', '.join(self.flops)}"
            ) from None

    def limit(self, work: Work) -> Limit:
        """What limits a layer: its operations, or reading and writing its bytes."""
        moving = Limit(MEMORY, work.moved / self.level(work.held).rate)
        if not work.flops:
            return moving
        computing = Limit(COMPUTE, work.flops / self.peak(work.dtype))
        return max(computing, moving, key=lambda each: each.seconds)


def given(gflops: float, gbytes: Sequence[float], threads: int) -> Roofs:
    """Roofs that are known already: GFLOP/s, and GB/s of L2, L3 and memory, or one for all.

    ConfigError where there are neither one nor three rates.
    """
    from tvmlayers.tune.limits import LEVELS

    if len(gbytes) not in (1, len(LEVELS)):
        raise ConfigError(
            f"the rates of reading are GB/s of {', '.join(LEVELS)}, or one number for all; "
            f"got {len(gbytes)} numbers"
        )
    rates = [1e9 * rate for rate in gbytes]
    levels = [Level(LEVELS[-1], None, rates[-1])]
    if len(rates) > 1:
        levels = [Level(*held, rate) for held, rate in zip(_held(threads), rates, strict=True)]
    return Roofs(dict.fromkeys(("float32", "float64"), 1e9 * gflops), tuple(levels), threads)


def measured(works: Iterable[Work], threads: int) -> Roofs:
    """What was measured here and now, of the dtypes and levels that the layers need."""
    from tvmlayers.tune import limits

    works = list(works)
    dtypes = dict.fromkeys(wide(work.dtype) for work in works if work.flops) or ["float32"]
    sizes = limits.level_bytes(native(), threads)
    unmeasured = Roofs(
        dict.fromkeys(dtypes, 1.0), tuple(Level(*held, 1.0) for held in _held(threads)), threads
    )
    needed = {unmeasured.level(work.held).name for work in works}
    levels = [
        Level(each.name, each.holds, limits.read("float32", threads, sizes[each.name]))
        for each in unmeasured.levels
        if each.name in needed
    ]
    return Roofs({dtype: limits.flops(dtype, threads) for dtype in dtypes}, tuple(levels), threads)


def _held(threads: int) -> list[tuple[str, int | None]]:
    """By level, how many bytes of data it holds: half of a cache, as other data passes through."""
    from tvmlayers.tune.limits import LEVELS

    machine: Target = native()
    l2, l3 = machine.l2 * threads // 2, machine.l3 // 2
    return list(zip(LEVELS, (l2, max(l2, l3), None), strict=True))
