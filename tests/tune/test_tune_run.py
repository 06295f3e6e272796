"""Tuning for real, a few trials each: what comes out is what compile then uses."""

from __future__ import annotations

import numpy as np
import pytest
from tuning_folders import Folders

import tvmlayers as tl
from tvmlayers import records, targets
from tvmlayers.schedule import analytic
from tvmlayers.tune import EFFORTS, State, WorkloadResult
from tvmlayers.tune.progress import Silent

KINDS = [
    "dense 16x64x128:gelu",
    "embedding 5000x64x320:zipf",
    "bag 5000x48x32x0..20:mean",
    "softmax 32x100",
]


class Listener(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def begin(self, state: State) -> None:
        assert state.limits is not None
        self.told.append(f"begin {state.place}")

    def trial(self, state: State) -> None:
        assert "GB/s" in state.rate() or "GFLOP/s" in state.rate()
        self.told.append(f"trial {state.done}")

    def end(self, state: State, result: WorkloadResult) -> None:
        self.told.append(f"end {result.trials}")


def test_every_kind_of_kernel_is_tuned(folders: Folders) -> None:
    listener = Listener()
    found = tl.tune(KINDS, trials=4, threads=1, progress=listener, **folders.named)
    assert [each.trials for each in found.workloads] == [4, 4, 4, 4]
    assert [each.failures for each in found.workloads] == [{}, {}, {}, {}]
    assert listener.told[:6] == ["begin 1/4", "trial 1", "trial 2", "trial 3", "trial 4", "end 4"]
    for each in found.workloads:
        first = folders.trials()[4 * list(found.workloads).index(each)]
        assert each.microseconds <= each.untuned_microseconds
        assert len(each.curve) == 4
        assert first["threads"] == 1
    firsts = {line["workload"]["kind"]: line["decisions"] for line in reversed(folders.trials())}
    for each in found.workloads:
        workload = each.case.workload
        assert firsts[workload.kind] == analytic(workload, targets.native())
    for file in records.read_all([folders.records]):
        for record in file.records:
            assert record.threads == 1
            assert record.trials == 4
            assert record.data["cold"] is False
    lines = str(found).splitlines()
    assert len(lines) == 6
    assert lines[0].split()[0] == "workload"


def test_compile_uses_what_was_tuned(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVMLAYERS_RECORDS", str(folders.records))
    layer = tl.Dense(64, activation="relu", input_dim=32)
    found = tl.tune(layer, trials=3, batches=(24,), threads=1, work_dir=folders.work)
    assert found.records == folders.records
    compiled = tl.compile(layer, threads=1)
    row = compiled.report()[0]
    assert any(
        regime["source"] == "record" and regime["decisions"] == found.workloads[0].decisions
        for regime in row["regimes"]
    )
    x = np.random.default_rng(0).standard_normal((24, 32)).astype("float32")
    weights = layer.get_weights()
    wanted = np.maximum(x @ weights[0] + weights[1], 0)
    np.testing.assert_allclose(compiled(x), wanted, rtol=1e-4, atol=1e-5)


def test_cold_data_is_measured_too(folders: Folders) -> None:
    found = tl.tune(
        "embedding 5000x64x64",
        trials=2,
        threads=1,
        data={"cold": True, "distribution": "zipf"},
        **folders.named,
    )
    assert found.workloads[0].failures == {}
    assert folders.trials()[0]["data"] == {"cold": True, "distribution": "zipf"}


def test_efforts_are_numbers_of_trials() -> None:
    assert EFFORTS == {"quick": 16, "standard": 64, "thorough": 512}


def test_the_package_and_the_function_share_their_name(folders: Folders) -> None:
    import tvmlayers.tune as package

    assert callable(tl.tune)
    assert callable(package)
    for each in (tl.tune, package):
        with pytest.raises(tl.TuneError, match="trials"):
            each("softmax 4x16", trials=0, **folders.named)
