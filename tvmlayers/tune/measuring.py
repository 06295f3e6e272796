"""What a worker does when it is asked: open a workload, try candidates, compare the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvmlayers import targets
from tvmlayers.spaces.choices import Decisions
from tvmlayers.targets import Target
from tvmlayers.tune import limits, timing
from tvmlayers.tune.data import Data
from tvmlayers.tune.fixture import Fixture, Here
from tvmlayers.tune.kernel import Kernel
from tvmlayers.tune.plain_fixture import PlainFixture
from tvmlayers.tune.remote import There
from tvmlayers.workload import Workload


class BuildFailed(Exception):
    """A candidate does not compile."""


class Session:
    """Measures on this machine. Answers are JSON-able; a failure is raised."""

    def __init__(self) -> None:
        self._fixture: Fixture | None = None
        self._device: There | None = None
        self._plain: PlainFixture | None = None
        self._conditions: tuple[Target, Data, int]

    def open(
        self,
        workload: Mapping[str, Any],
        target: Mapping[str, Any],
        threads: int,
        data: Mapping[str, Any],
        seed: int,
        decisions: Decisions,
        remote: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """{"seconds": of one call of the reference}; the workload before it is let go.

        remote: {"tracker", "key"} of the device to measure on; None for this machine.
        """
        self.close()  # two tables may be more than the memory holds
        self._device = None if remote is None else There(remote["tracker"], remote["key"])
        resolved, conditions = targets.resolve_cpu(target), Data.of(data)
        self._conditions = resolved, conditions, seed
        self._fixture = Fixture(
            Workload.from_dict(workload),
            resolved,
            threads,
            conditions,
            seed,
            decisions,
            self._device or Here(),
        )
        return {"seconds": self._fixture.seconds}

    def trial(self, decisions: Decisions) -> dict[str, Any]:
        """{"ratio": time of a candidate in times of the reference}."""
        fixture = self.fixture
        candidate = fixture.call(self._build(decisions))
        return {"ratio": timing.ratio(fixture.reference, candidate, fixture.calls)}

    def plain(self, module: str) -> dict[str, Any]:
        """As `trial`, of a scheduled plain function: a module's JSON."""
        if self._plain is None:
            self._plain = PlainFixture(self.fixture, *self._conditions)
        return {"ratio": self._plain.ratio(module)}

    def compare(self, finalists: Sequence[Decisions]) -> dict[str, Any]:
        """{"seconds": of each finalist}, measured together."""
        fixture = self.fixture
        calls = [fixture.call(self._build(decisions)) for decisions in finalists]
        _, seconds = timing.compare(fixture.reference, calls, fixture.calls)
        return {"seconds": seconds}

    def limits(self, dtype: str, threads: int, held: int) -> dict[str, Any]:
        """{"flops", "bytes"} a second that this machine can do at most; see `limits.measure`."""
        return limits.measure(dtype, threads, held)

    def close(self) -> dict[str, Any]:
        """{} when the workload and its device were let go."""
        self._fixture = self._plain = None
        if self._device is not None:
            self._device.close()
            self._device = None
        return {}

    @property
    def fixture(self) -> Fixture:
        """The open workload."""
        assert self._fixture is not None, "a workload is opened before it is tried"
        return self._fixture

    def _build(self, decisions: Decisions) -> Kernel:
        try:
            return self.fixture.builder.build(decisions)
        except Exception as error:
            raise BuildFailed(str(error)) from error
