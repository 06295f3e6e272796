from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_sessions import HALTS_AFTER, TRIED
from tuning_folders import HERE, Folders

import tvmlayers as tl
from tvmlayers import records
from tvmlayers.errors import TuneError
from tvmlayers.tune import State, TuningInterrupted, WorkloadResult, tune
from tvmlayers.tune.progress import Silent

CASE = "dense 128x768x3072:gelu"
TUNE = """
import sys
from tvmlayers.tune import tune
tune("dense 128x768x3072:gelu", trials=24, threads=1, work_dir=sys.argv[1], records=sys.argv[2])
"""


def started(folders: Folders, tried: Path, session: str) -> subprocess.Popen[bytes]:
    """A process that tunes and writes down which trials it begins."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "TVMLAYERS_TUNE_WORKER": f"fake_sessions:{session}",
        TRIED: str(tried),
    }
    arguments = [str(folders.work), str(folders.records)]
    return subprocess.Popen([sys.executable, "-c", TUNE, *arguments], env=environment)


def until(happened: Callable[[], bool], what: str) -> None:
    """Waits, and minutes where the machine is so busy: they only keep a failure from hanging."""
    deadline = time.monotonic() + 600
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def halted(process: subprocess.Popen[bytes], tried: Path) -> None:
    """Waits until the trial that never ends has begun."""

    def has_begun() -> bool:
        assert process.poll() is None
        return tried.exists() and tried.read_text().count("\n") > HALTS_AFTER

    until(has_begun, "the trials did not come")


def test_a_killed_run_goes_on_from_every_trial_it_measured(
    folders: Folders, tmp_path: Path
) -> None:
    tried = tmp_path / "tried"
    process = started(folders, tried, "Halting")
    halted(process, tried)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(folders.trials())
    begun = len(tried.read_text().splitlines())
    assert (kept, begun) == (HALTS_AFTER, HALTS_AFTER + 1)

    assert started(folders, tried, "Fake").wait() == 0
    trials = folders.trials()
    assert len(trials) == 24
    assert len({str(sorted(line["decisions"].items())) for line in trials}) == 24
    assert len(tried.read_text().splitlines()) == begun + 24 - kept
    (record,) = [each for file in records.read_all([folders.records]) for each in file.records]
    assert record.trials == 24


def test_the_worker_of_a_killed_run_goes_too(folders: Folders, tmp_path: Path) -> None:
    process = started(folders, tmp_path / "tried", "Halting")
    halted(process, tmp_path / "tried")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: has_ended(children[0]), "the worker outlived its parent")


def has_ended(process: str) -> bool:
    """Whether it is gone, but for the line that nobody has read yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_a_killed_run_and_an_unbroken_one_end_the_same(
    pretend: Callable[[str], None], folders: Folders, tmp_path: Path
) -> None:
    pretend("Fake")
    other = Folders(tmp_path / "other", tmp_path / "other records")
    tune(CASE, trials=11, threads=1, **folders.named)
    broken = tune(CASE, trials=24, threads=1, **folders.named).workloads[0]
    whole = tune(CASE, trials=24, threads=1, **other.named).workloads[0]
    assert broken.measured == 13
    assert (broken.decisions, broken.curve) == (whole.decisions, whole.curve)
    assert [line["decisions"] for line in folders.trials()] == [
        line["decisions"] for line in other.trials()
    ]


class Stopper(Silent):
    """Presses Ctrl-C after some trials."""

    def __init__(self, after: int) -> None:
        self.after = after

    def trial(self, state: State) -> None:
        if state.done == self.after:
            raise KeyboardInterrupt

    def end(self, state: State, result: WorkloadResult) -> None:
        self.after = 4


def test_ctrl_c_keeps_the_best_so_far(pretend: Callable[[str], None], folders: Folders) -> None:
    pretend("Fake")
    cases = [CASE, "softmax 256x1000", "softmax 32x1000"]
    with pytest.raises(TuningInterrupted) as caught:
        tune(cases, trials=10, threads=1, progress=Stopper(11), **folders.named)
    found = caught.value.result
    # The second workload was stopped after 4 trials, the third was not begun.
    assert [each.trials for each in found.workloads] == [10, 4]
    assert found.interrupted
    best = min(line["microseconds"] for line in folders.trials()[:10])
    assert found.workloads[0].curve[-1] == best
    written = [each for file in records.read_all([folders.records]) for each in file.records]
    assert {each.workload.kind: each.trials for each in written} == {"dense": 10, "softmax": 4}
    assert "stopped early" in str(found)


def test_a_disk_that_fills_up_midway_loses_nothing(
    pretend: Callable[[str], None], folders: Folders
) -> None:
    pretend("Fake")
    tune(CASE, trials=4, threads=1, **folders.named)
    (path,) = folders.work.rglob("*.jsonl")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * path.stat().st_size, limits[1]))
    try:
        with pytest.raises(TuneError, match="goes on from them") as caught:
            tune(CASE, trials=24, threads=1, **folders.named)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(path) in str(caught.value)
    kept = len(folders.trials())
    assert 4 < kept < 24
    (record,) = [each for file in records.read_all([folders.records]) for each in file.records]
    assert record.trials == kept
    assert tune(CASE, trials=24, threads=1, **folders.named).workloads[0].measured == 24 - kept


def test_folders_that_cannot_be_written_are_found_before_anything_is_measured(
    pretend: Callable[[str], None], folders: Folders, tmp_path: Path
) -> None:
    pretend("Fake")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(TuneError, match="trials cannot be written"):
        tune(CASE, trials=4, work_dir=blocked, records=folders.records)
    with pytest.raises(TuneError, match="records cannot be written"):
        tune(CASE, trials=4, work_dir=folders.work, records=blocked / "below")
    assert folders.trials() == []


def test_more_trials_later_add_to_those_before(
    pretend: Callable[[str], None], folders: Folders
) -> None:
    pretend("Fake")
    tl.tune(CASE, trials=5, threads=1, **folders.named)
    found = tl.tune(CASE, effort="quick", threads=1, **folders.named).workloads[0]
    assert (found.trials, found.measured) == (16, 11)
    other = tl.tune(CASE, trials=20, seed=9, threads=1, **folders.named).workloads[0]
    assert (other.trials, other.measured) == (20, 4)
