"""Which way is taken: for each range of batch sizes a tuned record, a neighbour's, or analytic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvmlayers import records as stored
from tvmlayers.records import Record
from tvmlayers.schedule.analytic import analytic
from tvmlayers.schedule.nearest import exact, is_near, nearest, unit_of
from tvmlayers.spaces.choices import Decisions
from tvmlayers.spaces.gemm import Tile
from tvmlayers.targets import Target, ancestors
from tvmlayers.workload import Workload

ANALYTIC = "analytic"
GIVEN = "given"

# Sizes of batch that are looked up by themselves; those between take the decisions of the next
# smaller one. Up to 128 rows the height of the tile that fits can be worth 8%.
_BATCHES = (*range(1, 129), 192, 256, 384, 512, 1024, 2048, 4096, 16384)


@dataclass(frozen=True)
class Regime:
    """The decisions for a range of batch sizes: from the range before it up to `most`.

    source: where they come from, such as "analytic", "record" or "nearest 128x768x3072 of
    x86-64-v4"; record: the one they were taken from, if any.
    """

    most: int | None
    decisions: Decisions
    source: str
    record: Record | None = None

    def describe(self) -> dict[str, Any]:
        """JSON-able: a row of a kernel's report."""
        found: dict[str, Any] = {
            "up_to": self.most,
            "source": self.source,
            "decisions": dict(self.decisions),
        }
        if self.record is not None:
            described = self.record.to_dict()
            del described["decisions"]
            found["record"] = described
        return found


@dataclass(frozen=True)
class Selector:
    """Chooses decisions for the kernels of one model on one target.

    use_records: whether tuned records are looked up; fixed: decisions by kind of kernel that are
    taken as they are (a tuner's trial).
    """

    target: Target
    use_records: bool = True
    fixed: Mapping[str, Decisions] = field(default_factory=dict)
    _loaded: dict[tuple[str, str], tuple[Record, ...]] = field(default_factory=dict, repr=False)
    _nearby: dict[tuple[str, Workload], tuple[Record, ...]] = field(
        default_factory=dict, repr=False
    )

    def decide(self, workload: Workload) -> Regime:
        """The decisions for one workload: a record's, a near one's, an ancestor's, the analytic."""
        if workload.kind in self.fixed:
            return Regime(None, self.fixed[workload.kind], GIVEN)
        otherwise = analytic(workload, self.target)
        if self.use_records:
            # Where that is another unit, neighbours and ancestors have nothing to say: it knows
            # their sizes' price, and they do not have the unit.
            own_only = bool(unit_of(otherwise))
            for name in (self.target.name, *(() if own_only else ancestors(self.target))):
                found = self._from_records(workload, name, own_only)
                if found is not None:
                    return found
        return Regime(None, otherwise, ANALYTIC)

    def regimes(self, workload: Workload) -> list[Regime]:
        """The decisions for every size of batch of `workload`, whose own batch does not matter.

        Ranges in rising order; the last has no end. Decisions are legal from the first size of
        their range on.
        """
        made: list[Regime] = []
        batches = self._batches(workload)
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            most = None if following is None else following - 1
            chosen = self._decide_from(workload.at(batch))
            regime = Regime(most, chosen.decisions, chosen.source, chosen.record)
            if made and _same(made[-1], regime):
                made[-1] = regime
            else:
                made.append(regime)
        return made

    def _decide_from(self, workload: Workload) -> Regime:
        """`decide`; below what fixed decisions can do, the analytic choice."""
        chosen = self.decide(workload)
        if chosen.source == GIVEN and workload.batch < _least_batch(chosen.decisions):
            return Regime(None, analytic(workload, self.target), ANALYTIC)
        return chosen

    def _batches(self, workload: Workload) -> list[int]:
        if workload.kind in self.fixed:
            return sorted({1, _least_batch(self.fixed[workload.kind])})
        own = {
            record.workload.batch
            for name in (self.target.name, *ancestors(self.target))
            for record in self._records(name, workload.kind)
            if record.workload.at(1) == workload.at(1)
        }
        return sorted({*_BATCHES, *own})

    def _records(self, target_name: str, kind: str) -> tuple[Record, ...]:
        if not self.use_records:
            return ()
        # The files are looked at once a model, however many lookups it makes.
        key = target_name, kind
        if key not in self._loaded:
            self._loaded[key] = stored.load(target_name, kind)
        return self._loaded[key]

    def _near(self, target_name: str, workload: Workload) -> tuple[Record, ...]:
        """The records that are near enough on some size of batch."""
        key = target_name, workload.at(1)
        if key not in self._nearby:
            self._nearby[key] = tuple(
                record
                for record in self._records(target_name, workload.kind)
                if is_near(workload.at(record.workload.batch), record.workload)
            )
        return self._nearby[key]

    def _from_records(self, workload: Workload, target_name: str, own_only: bool) -> Regime | None:
        records = self._near(target_name, workload)
        if not records:
            return None
        place = "" if target_name == self.target.name else f" of {target_name}"
        found = exact(workload, self.target, records)
        if found is not None:
            return Regime(None, found[1], f"record{place}", found[0])
        found = None if own_only else nearest(workload, self.target, records)
        if found is not None:
            return Regime(None, found[1], f"nearest {found[0].workload}{place}", found[0])
        return None


def _least_batch(decisions: Decisions) -> int:
    """The least batch that decisions can be taken for: no tile is taller, and no more rows are in
    flight."""
    if "tile" in decisions:
        return Tile.of(decisions).least
    return int(decisions.get("rows_in_flight", 1))


def _same(a: Regime, b: Regime) -> bool:
    return a.decisions == b.decisions and a.source == b.source


def by_choice(regimes: Sequence[Regime], name: str) -> list[tuple[int | None, Any]]:
    """[(most, decision), ...] of one choice over the ranges of batch sizes."""
    return [(regime.most, regime.decisions[name]) for regime in regimes]
