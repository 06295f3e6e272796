"""Tables in fewer bits: PyTorch's layout, half a step at most, and what cannot be held."""

from __future__ import annotations

import numpy as np
import pytest

from tvmlayers.errors import WeightsError
from tvmlayers.quantization import KINDS, ROWS
from tvmlayers.quantization.rows import TABLE, fused, parts


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_within_its_error(kind: str, table: np.ndarray) -> None:
    table = table[:, :16]
    held = ROWS.hold(table, kind, "table")
    off = np.abs(ROWS.floats(held, kind) - table)
    assert (off <= ROWS.errors(held, kind)).all()
    assert off.max() <= ROWS.bound(held, kind)
    shapes = {name: (array.shape, array.dtype.name) for name, array in held.items()}
    assert shapes == ROWS.specs(table.shape, kind)


def test_a_bound_is_half_a_step_and_not_more(table: np.ndarray) -> None:
    held = ROWS.hold(table, "int8", "table")
    spans = table.max(axis=1).astype(np.float64) - table.min(axis=1)
    errors = ROWS.errors(held, "int8")[:, 0]
    normal = spans > 1e-30
    np.testing.assert_allclose(errors[normal], spans[normal] / 510, rtol=1e-6)


def test_rows_of_one_number_are_exact(table: np.ndarray) -> None:
    held = ROWS.hold(table, "int8", "table")
    np.testing.assert_array_equal(ROWS.floats(held, "int8")[[7, 11]], table[[7, 11]])
    np.testing.assert_array_equal(ROWS.errors(held, "int8")[[7, 11]], 0)


def test_denormals_that_a_denormal_step_reaches_are_exact(table: np.ndarray) -> None:
    held = ROWS.hold(table, "int8", "table")
    np.testing.assert_array_equal(ROWS.floats(held, "int8")[17], table[17])


def test_an_outlier_costs_its_own_row_alone(table: np.ndarray) -> None:
    errors = ROWS.errors(ROWS.hold(table, "int8", "table"), "int8")[:, 0]
    assert errors[13] > 10
    assert np.delete(errors, 13).max() < 0.02


def test_rows_of_bytes_are_those_of_pytorch(table: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    packed = torch.ops.quantized.embedding_bag_byte_prepack(torch.from_numpy(table)).numpy()
    codes, scales, offsets = parts(packed)
    np.testing.assert_array_equal(fused(codes, scales, offsets), packed)
    unpacked = torch.ops.quantized.embedding_bag_byte_unpack(torch.from_numpy(packed)).numpy()
    np.testing.assert_allclose(
        ROWS.floats({TABLE: packed}, "int8"), unpacked, rtol=1e-6, atol=1e-6 * np.abs(scales).max()
    )
    ours = ROWS.hold(table, "int8", "table")[TABLE]
    theirs = torch.ops.quantized.embedding_bag_byte_unpack(torch.from_numpy(ours)).numpy()
    numbers = ROWS.floats({TABLE: ours}, "int8")
    np.testing.assert_allclose(numbers, theirs, rtol=1e-6, atol=1e-6 * np.abs(numbers).max())


def test_rows_of_int4_are_those_of_pytorch_both_ways(table: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    table = table[:, :16]
    packed = torch.ops.quantized.embedding_bag_4bit_prepack(torch.from_numpy(table)).numpy()
    codes, scales, offsets = parts(packed, "int4")
    np.testing.assert_array_equal(fused(codes, scales, offsets, "int4"), packed)
    for rows in (packed, ROWS.hold(table, "int4", "table")[TABLE]):
        theirs = torch.ops.quantized.embedding_bag_4bit_unpack(torch.from_numpy(rows)).numpy()
        numbers = ROWS.floats({TABLE: rows}, "int4")
        np.testing.assert_allclose(numbers, theirs, rtol=1e-6, atol=1e-6 * np.abs(numbers).max())


def test_a_row_that_float16_cannot_offset_is_refused() -> None:
    table = np.array([[0, 1], [-1e6, 1]], np.float32)
    with pytest.raises(WeightsError, match=r"a row, 1, .*float16's scale or offset"):
        ROWS.hold(table, "int4", "table")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_int8_refuses_what_is_not_finite_by_its_place(table: np.ndarray, wrong: float) -> None:
    table = table.copy()
    table[41, 5] = wrong
    with pytest.raises(WeightsError, match=rf"the table is {wrong} at \(41, 5\)"):
        ROWS.hold(table, "int8", "the table")


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_halves_keep_infinities_and_nan(table: np.ndarray, kind: str) -> None:
    table = table[:3].copy()
    table[1, :3] = np.nan, np.inf, -np.inf
    held = ROWS.hold(table, kind, "table")
    np.testing.assert_array_equal(ROWS.floats(held, kind)[1, :3], table[1, :3])
    assert np.isfinite(ROWS.bound(held, kind))


@pytest.mark.parametrize(("kind", "large"), [("float16", 1e6), ("bfloat16", 3.4e38)])
def test_a_number_that_would_become_infinite_is_refused(kind: str, large: float) -> None:
    table = np.array([[1.0, large]], np.float32)
    with pytest.raises(WeightsError, match=rf"at \(0, 1\), and {kind} holds numbers up to"):
        ROWS.hold(table, kind, "table")


def test_a_row_wider_than_float32_is_refused() -> None:
    table = np.array([[0, 1], [-3e38, 3e38]], np.float32)
    with pytest.raises(WeightsError, match="a row, 1, whose numbers lie farther apart"):
        ROWS.hold(table, "int8", "table")


def test_scales_from_elsewhere_are_finite() -> None:
    rows = fused(np.zeros((3, 4), np.uint8), np.array([1, np.nan, 1]), np.zeros(3))
    with pytest.raises(WeightsError, match="a row, 1, whose scale"):
        ROWS.check({TABLE: rows}, "int8", "Embedding")
