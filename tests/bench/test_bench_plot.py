"""Rows go into JSON and back, are summed up against each peer, and are drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from bench import plot, report, specs
from bench.__main__ import main
from bench.plot_roofline import intensity
from bench.rows import PeerTimes, Row

RESULTS = Path(__file__).parents[2] / "bench" / "results"


def peer(ratio: float) -> PeerTimes:
    return PeerTimes(10 * ratio, 12 * ratio, ratio, ratio * 0.9, ratio * 1.1, "way", "1.0", 0.5)


def row(case: str = "3x17x31:relu", **ratios: float) -> Row:
    best = min(ratios, key=lambda name: ratios[name])
    return Row(
        kind="dense",
        name="",
        case=case,
        data="1 kernel repeated",
        dtype="float32",
        threads=2,
        target="native",
        schedule=["analytic"],
        prepare_seconds=0.1,
        ours_us=10.0,
        ours_p99_us=12.0,
        rounds=5,
        others=0.0,
        peers={name: peer(ratio) for name, ratio in ratios.items()},
        best_peer=best,
        ratio=ratios[best],
        limit="FMA",
        limit_us=5.0,
        fraction=0.5,
        skipped={"absent": "no such layer"},
    )


ROWS = [row(torch=2.0, openvino=0.5), row("64x64x64", torch=4.0, openvino=8.0)]
CONDITIONS = {"threads": 2, "target": "native", "native": "x86-64-v3", "date": "2026-01-01T00:00"}
LIMITS = {"FMA float32 GFLOP/s": 300.0} | {
    f"read {level} GB/s": rate for level, rate in (("L2", 200.0), ("L3", 60.0), ("memory", 30.0))
}


def test_row_reads_back_from_its_json() -> None:
    for made in ROWS:
        assert Row.from_json(json.loads(json.dumps(made.as_json()))) == made


def test_summary_is_against_the_best_peer_and_against_each() -> None:
    summary = report.summarise(ROWS)
    assert summary["best peer"]["geometric_mean"] == pytest.approx(2**0.5)
    assert summary["best peer"]["minimum"] == summary["openvino"]["minimum"] == 0.5
    assert summary["openvino"]["at"].startswith("3x17x31:relu")
    assert summary["openvino"]["ahead"] == 1
    assert summary["torch"]["minimum"] == 2.0


def test_a_peer_missing_from_some_rows_counts_only_where_it_was() -> None:
    assert report.summarise([*ROWS, row(torch=1.0)])["openvino"]["cases"] == 2


def test_intensity_counts_each_byte_once() -> None:
    case = specs.parse("dense", "2x3x5")
    # 6 inputs, 15 weights, 5 of bias, 10 results
    assert intensity(case, "float32") == 60 / (36 * 4)  # parse gives any case


@pytest.fixture
def result(tmp_path: Path) -> Path:
    path = tmp_path / "rows.json"
    report.write_json(path, CONDITIONS, LIMITS, ROWS, {})
    return path


def test_plots_are_drawn_from_json_alike_each_time(result: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = []
    for turn in range(2):
        ratios, roofline = (tmp_path / f"{name}{turn}.svg" for name in ("ratios", "roofline"))
        files = ["--ratios", str(ratios), "--roofline", str(roofline)]
        assert main(["plot", str(result), *files]) == 0
        drawn.append([ratios.read_text(encoding="utf-8"), roofline.read_text(encoding="utf-8")])
    assert all("<svg" in text for text in drawn[0])
    assert drawn[0] == drawn[1]


def test_results_of_earlier_versions_can_still_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = [plot.Run.read(path) for path in sorted(RESULTS.glob("*/*threads.json"))]
    plot.draw(runs, tmp_path / "ratios.svg", None)


def test_what_cannot_be_drawn_is_refused(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert main(["plot", str(result)]) == 2
    assert "--ratios" in capsys.readouterr().err
    other = tmp_path / "other.json"
    other.write_text("{}", encoding="utf-8")
    assert main(["plot", str(other), "--ratios", str(tmp_path / "x.svg")]) == 2
    assert "other.json is not a result" in capsys.readouterr().err
    bags = plot.Run(CONDITIONS, LIMITS, [replace(made, kind="bag") for made in ROWS])
    with pytest.raises(plot.NoPlotError, match="dense"):
        plot.draw([bags], None, tmp_path / "roofline.svg")
