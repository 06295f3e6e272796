"""Which way is taken: a record, a near one, an ancestor's, or the analytic choice."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers import records, targets
from tvmlayers.records import Record
from tvmlayers.schedule import ANALYTIC, Regime, Selector, analytic
from tvmlayers.schedule.nearest import distance
from tvmlayers.spaces import SPACES, choices_of
from tvmlayers.spaces.choices import Decisions, is_legal
from tvmlayers.workload import KINDS, Workload

SPR, V4 = targets.TARGETS["sapphirerapids"], targets.TARGETS["x86-64-v4"]
DENSE = Workload.make("dense", m=128, k=640, n=128, dtype="float32", activation="relu")
EXAMPLES = [
    DENSE,
    Workload.make("dense", m=1, k=479, n=1000, dtype="float32", activation="linear"),
    Workload.make("dense", m=3, k=13, n=10, dtype="float64", activation="softmax"),
    Workload.make("dense", m=300, k=256, n=1, dtype="float32", activation="sigmoid"),
    Workload.make("dense", m=2, k=1, n=65, dtype="float32", activation="gelu"),
    Workload.make("embedding", indices=320, rows=5000, width=64, dtype="float32"),
    Workload.make("embedding", indices=1, rows=7, width=5, dtype="float64"),
    Workload.make("bag", indices=64, rows=5000, width=50, dtype="float32", mode="mean"),
    Workload.make("softmax", m=64, n=10, dtype="float32"),
    Workload.make("softmax", m=64, n=1000, dtype="float64"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's record folder, empty; shipped records are out of the way."""
    monkeypatch.setenv("TVMLAYERS_RECORDS", str(tmp_path / "own"))
    monkeypatch.setattr(records.lookup, "shipped_folder", lambda: tmp_path / "shipped")
    return tmp_path / "own"


def chosen_for(batch: int, regimes: list[Regime]) -> Decisions:
    """The decisions of the range that a size of batch lies in."""
    return next(each.decisions for each in regimes if each.most is None or batch <= each.most)


def keep(workload: Workload, target: str = "sapphirerapids", **changes: object) -> Record:
    decisions = {**analytic(workload, targets.TARGETS[target]), **changes}
    made = Record(
        workload=workload,
        target=target,
        space=SPACES[workload.kind],
        decisions=decisions,
        microseconds=90.0,
        untuned_microseconds=100.0,
        trials=64,
        threads=2,
        tvm=records.installed_tvm(),
        date="2026-11-22",
    )
    records.add([made])
    return made


def keep_here(workload: Workload, **changes: object) -> Record:
    """A record of the row that `native` stands for on this machine."""
    return keep(workload, targets.native().name, **changes)


@pytest.mark.parametrize("name", sorted(targets.TARGETS))
@pytest.mark.parametrize("workload", EXAMPLES, ids=str)
def test_the_analytic_choice_is_legal(workload, name):
    target = targets.TARGETS[name]
    assert is_legal(analytic(workload, target), choices_of(workload, target))


@pytest.mark.parametrize("workload", EXAMPLES, ids=str)
def test_decisions_are_legal_from_the_first_batch_of_their_range(workload, folder):
    first = 1
    regimes = Selector(SPR).regimes(workload)
    for regime in regimes:
        assert is_legal(regime.decisions, choices_of(workload.at(first), SPR))
        first = (regime.most or 0) + 1
    assert [regime.most for regime in regimes].count(None) == 1
    assert regimes[-1].most is None


def test_without_records_the_choice_is_analytic(folder):
    regime = Selector(SPR).decide(DENSE)
    assert (regime.source, regime.decisions) == (ANALYTIC, analytic(DENSE, SPR))


def test_a_record_of_the_very_workload_is_taken(folder):
    made = keep(DENSE, prefetch_steps=64)
    regime = Selector(SPR).decide(DENSE)
    assert (regime.source, regime.record) == ("record", made)
    assert regime.decisions["prefetch_steps"] == 64


def test_records_can_be_left_out(folder):
    keep(DENSE, prefetch_steps=64)
    assert Selector(SPR, use_records=False).decide(DENSE).source == ANALYTIC


def test_the_nearest_of_two_records_serves_a_shape_without_one(folder):
    keep(DENSE, V4.name, prefetch_steps=64)
    keep(DENSE.at(512), V4.name, prefetch_steps=4)
    regime = Selector(V4).decide(DENSE.at(200))
    assert regime.source == f"nearest {DENSE}"
    assert regime.decisions["prefetch_steps"] == 64


def test_a_record_whose_decisions_are_not_legal_here_is_passed_over(folder):
    keep(DENSE, V4.name, k_unroll=8)
    other = Workload.from_dict({**DENSE.to_dict(), "k": 641})
    assert Selector(V4).decide(other).source == ANALYTIC
    keep(DENSE.at(256), V4.name, k_unroll=1)
    assert Selector(V4).decide(other).source == f"nearest {DENSE.at(256)}"


def test_a_record_of_another_space_is_passed_over(folder):
    made = keep(DENSE)
    records.add([Record(**{**vars(made), "space": "of the future"})])
    records.prune(folder, dry_run=True)
    assert Selector(SPR).decide(DENSE).source == "record"


def test_a_far_shape_and_another_dtype_serve_nobody(folder):
    keep(DENSE)
    far = Workload.from_dict({**DENSE.to_dict(), "n": 128 * 8})
    double = Workload.from_dict({**DENSE.to_dict(), "dtype": "float64"})
    assert Selector(SPR).decide(far).source == ANALYTIC
    assert Selector(SPR).decide(double).source == ANALYTIC


def test_an_ancestor_serves_a_target_without_records(folder):
    few = DENSE.at(8)
    keep(few, V4.name, prefetch_steps=32)
    regime = Selector(SPR).decide(few)
    assert regime.source == "record of x86-64-v4"
    assert regime.decisions["prefetch_steps"] == 32


def test_where_the_matrix_unit_pays_only_its_own_record_is_taken(folder):
    keep(DENSE, V4.name)
    keep(DENSE.at(256))
    regime = Selector(SPR).decide(DENSE)
    assert (regime.source, regime.decisions) == (ANALYTIC, analytic(DENSE, SPR))
    assert regime.decisions["tile"] == "amx:32x4"
    keep(DENSE, row_block=64)
    assert Selector(SPR).decide(DENSE).source == "record"


def test_decisions_of_narrower_vectors_serve_only_where_they_are_legal(folder):
    keep(DENSE, target="x86-64-v3", tile="12x1")
    assert Selector(SPR).decide(DENSE).source == ANALYTIC
    assert Selector(targets.TARGETS["x86-64-v3"]).decide(DENSE).source == "record"


def test_few_rows_listen_only_to_neighbours_with_as_many(folder):
    keep(DENSE.at(6), prefetch_steps=64)
    assert Selector(SPR).decide(DENSE.at(5)).source == ANALYTIC
    wider = Workload.from_dict({**DENSE.at(6).to_dict(), "n": 256})
    assert Selector(SPR).decide(wider).source == f"nearest {DENSE.at(6)}"


def test_what_suits_few_rows_is_not_handed_on_to_more(folder):
    keep(DENSE.at(44), prefetch_steps=64)
    assert Selector(SPR).decide(DENSE.at(60)).source == ANALYTIC


def test_distance_counts_doublings_of_every_size():
    assert distance(DENSE, DENSE) == 0
    assert distance(DENSE, DENSE.at(256)) == 1
    gelu = Workload.from_dict({**DENSE.to_dict(), "activation": "gelu", "n": 256})
    assert distance(DENSE, gelu) == 1.25
    assert distance(DENSE, EXAMPLES[-1]) == np.inf


def test_a_compiled_layer_says_where_its_decisions_come_from(folder):
    keep_here(DENSE, k_unroll=2, prefetch_steps=64, split="panels")
    model = tl.Sequential([tl.Dense(128, activation="relu", input_dim=640)])
    (row,) = tl.compile(model).report()
    assert {ANALYTIC, "record"} <= set(row["schedule"].split(", "))
    regime = next(each for each in row["regimes"] if each["source"] == "record")
    assert regime["decisions"]["prefetch_steps"] == 64
    assert regime["record"]["microseconds"] == 90.0
    (row,) = tl.compile(model, records=False).report()
    assert row["schedule"] == ANALYTIC


def test_every_choice_of_every_kernel_gives_the_same_result(folder):
    """Records on both sides of each bound, with unlike decisions, change no result."""
    tiles = [t for t in choices_of(DENSE, targets.native())["tile"] if not t.startswith("amx")]
    low, six, wide, tall = tiles[0], tiles[5], tiles[-3], tiles[-1]
    keep_here(DENSE.at(1), streams=4, k_unroll=2, prefetch_steps=8, split="rows", grain_kmacs=24)
    keep_here(DENSE.at(7), tile=low, k_unroll=8, prefetch_steps=0, row_block=16, grain_kmacs=24)
    keep_here(DENSE.at(60), tile=wide, k_unroll=1, row_block=16, split="panels", grain_kmacs=24)
    keep_here(DENSE, tile=tall, row_block=16, k_block=128, next_lines=2, grain_kmacs=24)
    keep_here(DENSE.at(600), tile=six, row_block=256, k_block=32, next_lines=1, grain_kmacs=24)
    lookup = Workload.make("embedding", indices=40, rows=50, width=64, dtype="float32")
    keep_here(lookup, unrolled_vectors=1, prefetch_rows=0, grain_kib=12, rows_in_flight=4)
    keep_here(lookup.at(2000), vector_bytes=16, prefetch_rows=64, grain_kib=12, rows_in_flight=2)
    bag = Workload.make("bag", indices=40, rows=50, width=64, dtype="float32", mode="mean")
    keep_here(bag, unrolled_vectors=1, prefetch_rows=0, grain_kib=12)
    keep_here(bag.at(2000), vector_bytes=16, unrolled_vectors=2, prefetch_rows=64, grain_kib=12)
    keep_here(Workload.make("softmax", m=256, n=128, dtype="float32"), vectors=4, grain_kib=12)
    dense = tl.Sequential([tl.Dense(128, activation="relu", input_dim=640)])
    looked_up = tl.Sequential([tl.Embedding(50, 64, input_length=10)])
    pooled = tl.Sequential([tl.EmbeddingBag(50, 64, mode="mean"), tl.Activation("softmax")])
    sizes = (0, 1, 2, 5, 7, 9, 37, 59, 60, 61, 127, 128, 129, 599, 700)
    for model in (dense, looked_up, pooled):
        compiled = tl.compile(model)
        assert "record" in compiled.report()[0]["schedule"]
        assert tl.verify(compiled, samples=sizes).ok


def test_many_rows_of_panels_that_fill_the_cache_go_by_blocks_of_k(folder):
    small = dataclasses.replace(targets.TARGETS["x86-64-v3"], l2=64 * targets.KiB)
    model = tl.Sequential([tl.Dense(100, activation="gelu", input_dim=600)])
    compiled = tl.compile(model, target=small)
    many = compiled.report()[0]["regimes"][-1]["decisions"]
    assert (many["k_block"], many["row_block"]) == (300, 1024)
    assert tl.verify(compiled, samples=(192, 193, 1023, 1100, 2500)).ok


def test_a_core_with_one_multiply_add_a_cycle_computes_no_spare_rows_and_asks_for_nothing():
    one, two = targets.TARGETS["znver4"], targets.TARGETS["znver5"]
    assert (one.vector_fmas, two.vector_fmas) == (1, 2)
    for m in (9, 27, 50, 64, 100, 128):
        dense = Workload.make("dense", m=m, k=640, n=128, dtype="float32", activation="relu")
        decisions = analytic(dense, one)
        rows = int(decisions["tile"].partition("x")[0])
        assert m % rows == 0, (m, decisions)
        assert rows > 2, (m, decisions)
        assert decisions["prefetch_steps"] == 0
        assert chosen_for(m, Selector(one, use_records=False).regimes(dense)) == decisions
    dense = Workload.make("dense", m=128, k=640, n=128, dtype="float32", activation="relu")
    assert analytic(dense, two)["tile"].startswith("6x")
    bag = Workload.make("bag", indices=9999, rows=99999, width=64, dtype="float32", mode="sum")
    assert analytic(bag, one)["prefetch_rows"] < analytic(bag, two)["prefetch_rows"]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_kernel_has_a_space(kind):
    workload = next(each for each in EXAMPLES if each.kind == kind)
    assert SPACES[kind]
    assert all(len(candidates) > 0 for candidates in choices_of(workload, SPR).values())
