"""Dense kernels in fewer bits: half a step at most, a scale a column, and what cannot be held."""

from __future__ import annotations

import numpy as np
import pytest

from tvmlayers.errors import WeightsError
from tvmlayers.quantization import COLUMNS, KINDS
from tvmlayers.quantization.columns import KERNEL, SCALES, codes, pack_pairs

GROUPED = ("int8/32", "int4/32", "int4/64")


@pytest.mark.parametrize("kind", [*KINDS, *GROUPED])
def test_every_number_is_within_its_error(kind: str, table: np.ndarray) -> None:
    kernel = table.T.copy()
    held = COLUMNS.hold(kernel, kind, "kernel")
    off = np.abs(COLUMNS.floats(held, kind) - kernel)
    assert (off <= COLUMNS.errors(held, kind)).all()
    assert np.sqrt(np.square(off).sum(axis=0)).max() <= COLUMNS.bound(held, kind)
    shapes = {name: (array.shape, array.dtype.name) for name, array in held.items()}
    assert shapes == COLUMNS.specs(kernel.shape, kind)


def test_a_bound_is_half_a_step_and_not_more(table: np.ndarray) -> None:
    held = COLUMNS.hold(table, "int8", "kernel")
    most = np.abs(table).max(axis=0).astype(np.float64)
    np.testing.assert_allclose(COLUMNS.errors(held, "int8")[0], most / 254, rtol=1e-6)


def test_codes_are_symmetric_and_columns_of_zeros_are_zeros(table: np.ndarray) -> None:
    kernel = np.concatenate([table, -table, np.zeros_like(table)], axis=1)
    held = COLUMNS.hold(kernel, "int8", "kernel")
    width = table.shape[1]
    np.testing.assert_array_equal(held[KERNEL][:, :width], -held[KERNEL][:, width : 2 * width])
    assert held[KERNEL].min() == -127
    np.testing.assert_array_equal(held[SCALES][2 * width :], 0)
    np.testing.assert_array_equal(COLUMNS.floats(held, "int8")[:, 2 * width :], 0)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_int8_refuses_what_is_not_finite_by_its_place(table: np.ndarray, wrong: float) -> None:
    table = table.copy()
    table[41, 5] = wrong
    with pytest.raises(WeightsError, match=rf"the kernel is {wrong} at \(41, 5\)"):
        COLUMNS.hold(table, "int8", "the kernel")


def test_scales_from_elsewhere_are_finite() -> None:
    held = {KERNEL: np.zeros((2, 3), np.int8), SCALES: np.array([1, np.inf, 1], np.float32)}
    with pytest.raises(WeightsError, match="a scale, 1, that is not finite"):
        COLUMNS.check(held, "int8", "Dense")


def test_a_group_has_its_own_scale_and_the_last_may_be_shorter(table: np.ndarray) -> None:
    kernel = np.abs(table)  # 61 rows: groups of 32 and of 29
    held = COLUMNS.hold(kernel, "int8/32", "kernel")
    assert held[SCALES].shape == (2, table.shape[1])
    for group, rows in enumerate((kernel[:32], kernel[32:])):
        np.testing.assert_allclose(held[SCALES][group], rows.max(axis=0) / 127, rtol=1e-6)


def test_the_largest_of_int4_is_exact_whatever_its_sign(table: np.ndarray) -> None:
    for kernel in (table, -table):
        held = COLUMNS.hold(kernel, "int4/32", "kernel")
        numbers = COLUMNS.floats(held, "int4/32")
        for rows in (slice(0, 32), slice(32, 61)):
            part = kernel[rows]
            largest = np.abs(part).argmax(axis=0)
            columns = np.arange(part.shape[1])
            normal = np.abs(part[largest, columns]) > 1e-30
            found = numbers[rows][largest, columns]
            np.testing.assert_array_equal(found[normal], part[largest, columns][normal])
        assert (codes(held, "int4/32").min(), codes(held, "int4/32").max()) == (-8, 7)


@pytest.mark.parametrize("columns", [1, 2, 17])
def test_int4_codes_come_two_a_byte(columns: int) -> None:
    given = np.random.default_rng(0).integers(-8, 8, (5, columns)).astype(np.int8)
    pairs = pack_pairs(given)
    assert pairs.shape == (5, -(-columns // 2))
    assert pairs.dtype == np.uint8
    assert pairs[0, 0] & 15 == given[0, 0] + 8
    held = {KERNEL: pairs, SCALES: np.ones(columns, np.float32)}
    np.testing.assert_array_equal(codes(held, "int4"), given)
