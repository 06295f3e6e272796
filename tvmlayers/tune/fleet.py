"""Measures on all devices of one key at the same time, each served by a worker of its own."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from tvmlayers.errors import TuneError
from tvmlayers.spaces.choices import Decisions
from tvmlayers.targets import Target
from tvmlayers.tune.cases import Case
from tvmlayers.tune.local import OPEN_SECONDS, TRIAL_CALLS, opening_of
from tvmlayers.tune.outcome import Outcome
from tvmlayers.tune.process import Worker, WorkerFailed
from tvmlayers.tune.tracker import Address, need_servers

# Building and the network come on top of what runs on the device.
TRIAL_SECONDS = 30.0
LOST = "device lost"
# Servers end a session after `remote.SESSION_SECONDS`, whatever it is doing.
RENEW_SECONDS = 300.0
# For a trial that is under way, and the end of its connection.
GOODBYE_SECONDS = 5.0
Job = tuple[int, Decisions]


class Lane:
    """One worker with the device that it holds, and the thread that waits for it."""

    def __init__(self, threads: int) -> None:
        self.worker = Worker(threads)
        # A worker dies with the thread that started it, so this one stays.
        self.pool = ThreadPoolExecutor(1)
        self._opened: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether the worker has a device and the workload there, not about to end."""
        if self._opened is None or not self.worker.is_alive:
            return False
        return time.monotonic() - self._opened < RENEW_SECONDS

    def open(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to "open"."""
        found = self.ask("open", OPEN_SECONDS, **arguments)
        self._opened = None if "cause" in found else time.monotonic()
        return found

    def ask(self, op: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        """The answer; a lost device is let go and answered as {"cause": ...}."""
        try:
            found = self.worker.ask(op, timeout, **arguments)
        except WorkerFailed as error:
            return {"cause": f"{LOST}: {error}"}
        if str(found.get("cause", "")).startswith(LOST):
            self.worker.close()  # its connection is of no use any more
        return found

    def leave(self) -> None:
        """Give the device back. TVM's server does not survive a connection that is cut."""
        if self.worker.is_alive:
            self.ask("close", GOODBYE_SECONDS)

    def close(self) -> None:
        """End the worker and the thread."""
        self.worker.kill()
        self.pool.shutdown(cancel_futures=True)
        self.worker.close()


class Fleet:
    """The measurer of the devices behind a tracker; see `local.Measurer`."""

    def __init__(self, target: Target, threads: int, tracker: str, key: str) -> None:
        """TuneError where the tracker cannot be reached or has no device of that key."""
        self._target, self._threads = target, threads
        self._tracker, self._key = tracker, key
        count = need_servers(Address.of(tracker), key)
        self._lanes = [Lane(threads) for _ in range(count)]
        self._opening: dict[str, Any] = {}
        self._microseconds = 0.0
        self._closing = False

    def open(self, case: Case, seed: int, reference: Decisions) -> float:
        opening = opening_of(case, self._target, self._threads, seed, reference)
        self._opening = {**opening, "remote": {"tracker": self._tracker, "key": self._key}}
        asked = [lane.pool.submit(lane.open, self._opening) for lane in self._lanes]
        answers = [each.result() for each in asked]
        times = [found["seconds"] for found in answers if "cause" not in found]
        if not times:
            raise TuneError(
                f"no device of key {self._key!r} can measure the untuned kernel of "
                f"{case.workload}: {answers[0]['cause']}"
            )
        self._microseconds = 1e6 * float(min(times))
        return self._microseconds

    def relate(self, microseconds: float) -> None:
        self._microseconds = microseconds

    def __call__(self, batch: Sequence[Decisions]) -> Iterator[tuple[int, Outcome]]:
        jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in enumerate(batch):
            jobs.put(job)
        done: queue.SimpleQueue[tuple[int, Outcome] | None] = queue.SimpleQueue()
        for lane in self._lanes:
            lane.pool.submit(self._work, lane, jobs, done)
        at_work, left = len(self._lanes), len(batch)
        while left:
            found = done.get()
            if found is not None:
                left -= 1
                yield found
                continue
            at_work -= 1
            if not at_work and left and done.empty():
                raise TuneError(
                    f"no device of key {self._key!r} at {self._tracker} is left; what was measured "
                    f"is kept, the same command goes on from there"
                )

    def compare(self, finalists: Sequence[Decisions]) -> list[float]:
        # By the lane's thread, which may still be waiting for a device; those that have one first.
        for lane in sorted(self._lanes, key=lambda lane: not lane.is_open):
            times = lane.pool.submit(self._compare, lane, finalists).result()
            if times is not None:
                return times
        raise TuneError("the fastest candidates cannot be compared: no device can measure them")

    def limits(self, case: Case) -> dict[str, float] | None:
        """None: another machine's limits are not known here."""
        del case
        return None

    def close(self) -> None:
        self._closing = True
        # A lane without a device has nothing to give back, and may be waiting for another.
        held = [lane for lane in self._lanes if lane.is_open]
        wait([lane.pool.submit(lane.leave) for lane in held], GOODBYE_SECONDS)
        for lane in self._lanes:
            lane.close()

    def _work(
        self,
        lane: Lane,
        jobs: queue.SimpleQueue[Job],
        done: queue.SimpleQueue[tuple[int, Outcome] | None],
    ) -> None:
        """Try jobs on one lane until there are none, or its device is lost for good."""
        try:
            while not self._closing and self._ready(lane):
                place, decisions = jobs.get_nowait()
                done.put((place, self._trial(lane, decisions)))
        except queue.Empty:
            pass
        finally:
            done.put(None)

    def _trial(self, lane: Lane, decisions: Decisions) -> Outcome:
        begin = time.monotonic()
        found = lane.ask("trial", self._timeout(), decisions=dict(decisions))
        spent = time.monotonic() - begin
        if "cause" in found:
            return Outcome(None, str(found["cause"]), spent)
        return Outcome(found["ratio"] * self._microseconds, None, spent)

    def _compare(self, lane: Lane, finalists: Sequence[Decisions]) -> list[float] | None:
        """The microseconds of each on one lane; None where it has no device for them."""
        if not self._ready(lane):
            return None
        timeout = self._timeout() * (1 + len(finalists))
        found = lane.ask("compare", timeout, finalists=[dict(each) for each in finalists])
        if "cause" in found:
            return None
        return [1e6 * seconds for seconds in found["seconds"]]

    def _ready(self, lane: Lane) -> bool:
        """Whether the lane has a device, another one if it lost its own."""
        return lane.is_open or "cause" not in lane.open(self._opening)

    def _timeout(self) -> float:
        return max(TRIAL_SECONDS, TRIAL_CALLS * self._microseconds * 1e-6)
