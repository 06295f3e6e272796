"""`explain` counts what a call does, and limits it by roofs that are given: nothing is timed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import tvmlayers as tl
from tvmlayers.roofline import Level, Roofs
from tvmlayers.tune import limits

# Ten operations a second, ten bytes from a cache of 60,000, one byte from memory.
ROOFS = Roofs({"float32": 10.0}, (Level("L2", 60_000, 10.0), Level("memory", None, 1.0)), 1)


def explain(model: tl.Model | tl.Layer, **more: int) -> tl.roofline.Explanation:
    return tl.explain(model, roofs=ROOFS, **more)


def test_a_dense_layer_is_counted_once_for_each_byte_and_operation() -> None:
    (row,) = explain(tl.Dense(8, activation="relu", input_dim=5), batch=3).rows
    assert row.flops == 3 * 8 * (2 * 5 + 2)
    assert row.bytes == 4 * (3 * 5 + 5 * 8 + 8 + 3 * 8)
    assert row.intensity == row.flops / row.bytes
    assert (row.bound, row.level) == ("memory", "L2")
    assert row.least_seconds == row.bytes / 10.0


def test_more_rows_turn_memory_into_compute() -> None:
    wide = tl.Dense(100, input_dim=100)
    few, many = (explain(wide, batch=batch).rows[0] for batch in (1, 20))
    assert (few.bound, many.bound) == ("memory", "compute")
    assert many.least_seconds == many.flops / 10.0


def test_a_lookup_moves_its_rows_and_lies_where_its_table_does() -> None:
    table = tl.Sequential([tl.Embedding(1000, 16, input_length=4)])
    (row,) = explain(table, batch=2).rows
    assert row.flops == 0
    assert row.bytes == 2 * 4 * (8 + 16 * 4 + 16 * 4)  # int64 indices, rows, results
    assert (row.limit, row.level) == ("memory", "memory")  # 64,000 bytes of a table
    (many,) = explain(table, batch=1000).rows
    assert many.bytes == 1000 * 4 * (8 + 16 * 4) + 1000 * 16 * 4, "the whole table at the most"


def test_rows_in_fewer_bits_are_fewer_bytes() -> None:
    plain = tl.Sequential([tl.Embedding(1000, 64, input_length=4)])
    small = tl.quantize(plain, tables="int8")
    before, after = (explain(each, batch=2).rows[0].bytes for each in (plain, small))
    assert after < before - 2 * 4 * 64 * 2


def pooled() -> tl.Model:
    ids = tl.Input((None,), dtype="int64")
    mean = tl.GlobalAveragePooling1D()(tl.Embedding(20, 4)(ids))
    dense = tl.Dense(4)(mean)
    return tl.Model(ids, tl.LayerNormalization()(tl.Add()([dense, mean])))


def test_layers_of_one_kernel_are_one_row_and_views_none() -> None:
    rows = explain(pooled(), batch=3, length=5).rows
    names = ["embedding + global_average_pooling1d", "dense", "add + layer_normalization"]
    assert [row.layer for row in rows] == names
    # 15 indices of 8 bytes, at most 20 rows of 16 bytes, 3 results.
    assert rows[0].bytes == 15 * 8 + 15 * 16 + 3 * 16
    flat = tl.Sequential([tl.Embedding(9, 4, input_length=6), tl.Flatten(), tl.Dense(2)])
    assert [row.layer for row in explain(flat).rows] == ["embedding", "dense"]


def bags() -> tl.Model:
    """Flat indices, and one offset more than bags."""
    indices = tl.Input((None,), batch=False, name="indices")
    offsets = tl.Input((None,), batch=False, name="offsets")
    bag = tl.EmbeddingBag(50, 4, mode="sum", include_last_offset=True)
    return tl.Model([indices, offsets], tl.Dense(2)(bag(indices, offsets)))


def test_bags_have_the_length_that_is_given() -> None:
    bag, dense = explain(bags(), batch=3, length=5).rows
    assert bag.flops == 15 * 4
    assert bag.bytes == 15 * 8 + 4 * 8 + 15 * 16 + 3 * 16
    assert dense.flops == 3 * 2 * (2 * 4 + 1)


def test_a_batch_normalisation_that_is_folded_is_no_row() -> None:
    model = tl.Sequential([tl.Input((4,)), tl.Dense(3), tl.BatchNormalization()])
    assert [row.kind for row in explain(model).rows] == ["Dense"]
    assert explain(tl.compile(model)).rows == explain(model).rows


def test_each_layer_and_the_model_are_measured_where_asked() -> None:
    found = tl.explain(bags(), batch=3, length=5, measure=True, roofs=ROOFS)
    assert found.seconds is not None
    assert found.seconds > 0
    for row in found.rows:
        assert row.seconds is not None
        assert row.of_limit == row.least_seconds / row.seconds > 0
    assert "one by one" in str(found)


def test_only_the_levels_and_dtypes_that_are_needed_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def rate(*what: object) -> float:
        asked.append(what)
        return 7.0

    monkeypatch.setattr(limits, "flops", rate)
    monkeypatch.setattr(limits, "read", rate)
    found = tl.explain(tl.Dense(3, input_dim=4, dtype="float64"), batch=1, threads=1)
    assert found.roofs.flops == {"float64": 7.0}
    assert [level.name for level in found.roofs.levels] == ["L2"]
    assert len(asked) == 2


def long_names() -> tl.Model:
    x = y = tl.Input((70,))
    for place in range(30):
        y = tl.Dense(70, name=f"a_layer_with_a_name_that_no_column_has_room_for_{place}")(y)
    return tl.Model(x, y)


@pytest.mark.parametrize("make", [pooled, bags, long_names])
@pytest.mark.parametrize("flops", [1e-3, 1e9, 9e14])
def test_the_text_has_80_columns(make: object, flops: float) -> None:
    roofs = Roofs({"float32": flops}, ROOFS.levels, 1)
    lines = str(tl.explain(make(), roofs=roofs)).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1] == "GFLOP/s"


def test_a_layer_is_drawn_on_the_roof_that_limits_it() -> None:
    def line_of_a(batch: int) -> str:
        lines = str(explain(tl.Dense(100, input_dim=100), batch=batch)).splitlines()
        drawn = [line.partition("|")[2] for line in lines if "|" in line]
        return next(line for line in drawn if "a" in line)

    assert "_a_" in line_of_a(20)
    assert set(line_of_a(1)) <= set(".:a ")


def test_a_model_without_arithmetic_has_a_table_alone() -> None:
    text = str(explain(tl.Sequential([tl.Embedding(9, 4, input_length=3)])))
    assert "GFLOP/s" not in text
    assert "embedding" in text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"batch": 0}, "batch of at least 1"),
        ({"threads": 2}, "those of 1 threads, got threads=2"),
    ],
)
def test_wrong_arguments_are_refused(more: dict[str, int], said: str) -> None:
    with pytest.raises(tl.ConfigError, match=said):
        explain(tl.Dense(3, input_dim=4), **more)


def test_roofs_without_the_dtype_of_a_layer_are_refused() -> None:
    with pytest.raises(tl.ConfigError, match="float64, only for float32"):
        explain(tl.Dense(3, input_dim=4, dtype="float64"))


def test_views_alone_are_refused() -> None:
    x = tl.Input((2, 3))
    with pytest.raises(tl.ConfigError, match="views"):
        explain(tl.Model(x, tl.Flatten()(x)))


def test_a_plot_is_drawn_alike_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = explain(pooled())
    path = tmp_path / "roofs.svg"
    found.plot(path)
    text = path.read_text(encoding="utf-8")
    assert "add + layer_normalization" in text
    found.plot(path)
    assert path.read_text(encoding="utf-8") == text


def test_a_plot_that_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(tl.ConfigError, match="a plot is a file of"):
        explain(pooled()).plot(tmp_path / "roofs.txt")
    with pytest.raises(tl.ConfigError, match="no layer of 'sequential' does arithmetic"):
        explain(tl.Sequential([tl.Embedding(9, 4, input_length=3)])).plot(tmp_path / "x.svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(tl.MissingDependencyError, match=r"tvmlayers\[plot\]"):
        explain(pooled()).plot(tmp_path / "x.svg")
