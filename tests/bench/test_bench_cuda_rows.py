"""`bench cuda`, its cases run on the CPU: rows, ratios, limits, and a file that is always whole."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bench import cuda_cases, cuda_dense, cuda_rows, cuda_timing, plot  # noqa: E402 - without torch the file is skipped first
from bench.__main__ import parser  # noqa: E402 - without torch the file is skipped first
from bench.cuda_limits import GpuLimits  # noqa: E402 - without torch the file is skipped first
from bench.cuda_peers import Run  # noqa: E402 - without torch the file is skipped first
from bench.rows import PeerTimes, Row  # noqa: E402 - without torch the file is skipped first

CASES = ("3x8x5:relu", "2x8x5:relu", "50x16x20:zipf", "333x16x31x3:sum:uniform")


@pytest.fixture(autouse=True)
def few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_timing, "ROUNDS", 3)
    monkeypatch.setattr(cuda_timing, "CALLS", 2)


def session(*words: str, cases: tuple[str, ...] = CASES) -> tuple[Run, argparse.Namespace]:
    given = ["cuda", "--target", "native", "--peers", *words, "--cases", *cases]
    arguments = parser().parse_args(given)
    return Run(arguments, GpuLimits("cpu", 1 << 20, 64), "cpu"), arguments


def timed(*words: str, cases: tuple[str, ...] = CASES) -> tuple[int, Run]:
    run, arguments = session(*words, cases=cases)
    return run.time(cuda_cases.chosen(None, ["float32"], arguments.cases)), run


def test_every_kind_gives_a_row_with_ratios_and_the_part_of_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cuda.json"
    status, _ = timed("--json", str(path))
    assert status == 0
    read = plot.Run.read(path)  # as the plots take it
    assert [row.case for row in read.rows] == list(CASES)
    for row in read.rows:
        assert row.best_peer == "torch"
        assert row.ratio == row.peers["torch"].ratio > 0
        assert row.fraction == pytest.approx((row.limit_us or 0) / row.ours_us)
        assert row.rate_unit == ("TFLOP/s" if row.kind == "dense" else "GB/s")
    assert read.limits is not None
    assert set(read.limits) == {"copy GB/s", "matmul float32 TFLOP/s"}
    means = json.loads(path.read_text())["geometric_means"]
    assert set(means) == {"dense", "embedding", "bag"}
    assert "bag against best peer: geometric mean" in capsys.readouterr().out


def test_a_layer_is_compiled_once_for_all_its_rows() -> None:
    first = cuda_dense.prepare("float32", _dense(3), "native", [], "cpu")
    second = cuda_dense.prepare("float32", _dense(700), "native", [], "cpu")
    assert first.compiled is second.compiled
    assert first.flops < second.flops


def test_cases_of_a_layer_come_one_after_the_other() -> None:
    layers = [
        (dtype, case.k, case.n, case.activation)
        for dtype, case in cuda_cases.chosen(["dense"])
        if case.kind == "dense"
    ]
    changes = sum(left != right for left, right in pairwise(layers))
    assert changes + 1 == len(set(layers))


def _dense(m: int) -> Any:
    ((_, case),) = cuda_cases.chosen(["dense"], ["float32"], [f"{m}x24x7:gelu"])
    return case


def test_rows_are_in_the_file_before_the_next_case_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cuda.json"
    run, arguments = session("--json", str(path))
    prepare, wanted = cuda_dense.prepare, cuda_cases.chosen(None, ["float32"], list(CASES))

    def killed(dtype: str, case: Any, *more: Any) -> Any:
        if case.m == 2:
            raise KeyboardInterrupt
        return prepare(dtype, case, *more)

    monkeypatch.setattr(cuda_dense, "prepare", killed)
    with pytest.raises(KeyboardInterrupt):
        run.time(wanted)
    assert [row.case for row in plot.Run.read(path).rows] == ["3x8x5:relu"]
    monkeypatch.undo()
    before = path.read_text()
    status, again = timed("--json", str(path), "--resume")
    assert status == 0
    assert [row.case for row in plot.Run.read(path).rows] == list(CASES)
    assert again.rows[0].ours_us == json.loads(before)["rows"][0]["ours_us"]
    assert arguments.json == path


def test_a_spent_budget_ends_with_a_status_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    status, run = timed("--budget", "-1")
    assert (status, run.rows) == (3, [])
    assert "4 cases are left" in capsys.readouterr().out


def test_a_wrong_result_is_no_row_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    layer = cuda_dense.twin(8, 5, "relu", "float32", "native", "cpu")
    layer.bias.add_(1)  # torch's side of the layer has another bias from here on
    path = tmp_path / "cuda.json"
    try:
        status, run = timed("--json", str(path), cases=CASES[1:3])
    finally:
        cuda_dense.twin.cache_clear()
    assert status == 1
    assert [row.kind for row in run.rows] == ["embedding"]
    assert "off by up to" in json.loads(path.read_text())["errors"]["2x8x5:relu float32"]


def peer(ratio: float, kernels: float | None = None) -> PeerTimes:
    device = None if kernels is None else 4 * kernels
    return PeerTimes(10 * ratio, 0, ratio, ratio, ratio, "", device_us=device, device_ratio=kernels)


def row(**changes: Any) -> Row:
    peers = {"torch": peer(2.0, 1.5), "torch.compile": peer(0.5, 1.25)}
    first = Row(
        "dense",
        "",
        "8x8x8:gelu",
        "",
        "float16",
        1,
        "cuda",
        [],
        0.0,
        10.0,
        11.0,
        3,
        None,
        peers,
        "torch.compile",
        0.5,
        "torch.matmul",
        2.0,
        0.2,
        device_us=4.0,
        rate=12.34,
        rate_unit="TFLOP/s",
    )
    return replace(first, **changes)


def test_a_line_tells_calls_and_kernels_and_who_is_missing() -> None:
    assert cuda_rows.line_of(row(skipped={"fbgemm": "it is not here"})) == (
        "8x8x8:gelu float16: 10.0 us (kernels 4.0 us), torch 2.00x (kernels 1.50x), "
        "torch.compile 0.50x (kernels 1.25x), best torch.compile, 12.34 TFLOP/s, "
        "20% (kernels 50%) of torch.matmul, without fbgemm: it is not here"
    )


def test_means_are_of_a_kind_and_the_best_peer_is_the_least_ratio_of_each_case() -> None:
    rows = [row(), row(peers={"torch": peer(8.0)}), row(kind="bag", peers={"torch": peer(3.0)})]
    means = cuda_rows.geometric_means(rows)
    assert means["dense"]["torch"] == pytest.approx({"cases": 2, "call": 4.0, "device": 1.5})
    assert means["dense"]["best peer"] == pytest.approx({"cases": 2, "call": 2.0, "device": 1.25})
    assert means["bag"]["torch"] == {"cases": 1, "call": pytest.approx(3.0)}


def test_a_limit_is_the_later_of_memory_and_products() -> None:
    limits = GpuLimits("cpu", 1 << 20, 64)
    assert limits.of(10**12, 1, "float32").name == "bandwidth of a copy"
    assert limits.of(1, 10**12, "float32").name == "torch.matmul"
    assert limits.of(1000, 0, "float32").seconds == 1000 / limits.bandwidth()


def test_only_what_ran_on_the_device_is_added_up() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.ones(100).sum()
    assert profiler.events()
    assert cuda_timing.kernel_microseconds(profiler.events()) == 0

    def event(name: str, microseconds: float, annotation: bool = False) -> Any:
        kind = getattr(torch.autograd.DeviceType, name)
        span = SimpleNamespace(elapsed_us=lambda: microseconds)
        return SimpleNamespace(device_type=kind, time_range=span, is_user_annotation=annotation)

    events = [event("CUDA", 3), event("CUDA", 4), event("CUDA", 50, True), event("CPU", 9)]
    assert cuda_timing.kernel_microseconds(events) == 7
