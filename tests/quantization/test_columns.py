"""Dense kernels in fewer bits: half a step at most, a scale a column, and what cannot be held."""

from __future__ import annotations

import numpy as np
import pytest

from tvmlayers.errors import WeightsError
from tvmlayers.quantization import COLUMNS, KINDS
from tvmlayers.quantization.columns import KERNEL, SCALES


@pytest.mark.parametrize("kind", KINDS)
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
