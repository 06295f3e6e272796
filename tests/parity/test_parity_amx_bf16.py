"""Dense layers of bfloat16 on AMX: every rest of a tile, what lies beside tensors, who has it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from functools import cache
from typing import Any

import numpy as np
import pytest
from agreement import Twin, normal, on_cpu
from guarded import copied, guarded

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.codegen.compiler import assembly
from tvmlayers.dtypes import numpy_dtype
from tvmlayers.layers import as_model
from tvmlayers.schedule import Selector

TARGET = "sapphirerapids"
MISSING = targets.missing_features(targets.resolve(TARGET).cpu_flags)
pytestmark = [on_cpu, pytest.mark.skipif(bool(MISSING), reason=f"no {MISSING}")]

BF16 = numpy_dtype("bfloat16")
ROWS = (3, 4, 15, 16, 17, 31, 32, 33, 48, 49, 100)


@cache
def dense(k: int, n: int, activation: str = "linear", threads: int = 2) -> Twin:
    layer = tl.Dense(n, activation, input_dim=k, dtype="bfloat16")
    return Twin(layer, target=TARGET, threads=threads)


@pytest.mark.parametrize(("k", "n"), [(32, 33), (45, 75), (64, 200), (300, 130)])
def test_every_rest_of_a_tile_is_computed(k: int, n: int) -> None:
    twin = dense(k, n, "gelu")
    (row,) = twin.compiled.report()
    assert row["regimes"][-1]["decisions"]["tile"] == "amx_bf16:32x4"
    twin.agrees_for_every_batch(normal(100, k, dtype="bfloat16"), batches=ROWS)


def test_threads_share_rows_as_well_as_panels() -> None:
    # More rows than columns: the threads share those out.
    twin = dense(45, 75)
    splits = {each["decisions"]["split"] for each in twin.compiled.report()[0]["regimes"]}
    assert splits == {"rows", "panels"}
    x = normal(1500, 45, dtype="bfloat16")
    twin.agrees(x)
    alone = dense(45, 75, threads=1).compiled
    for rows in (90, 700, 1500):
        np.testing.assert_array_equal(twin.compiled(x[:rows]), alone(x[:rows]))


@pytest.mark.parametrize("at_end", [False, True])
def test_nothing_is_read_or_written_beside_the_tensors(at_end: bool) -> None:
    compiled = dense(45, 75).compiled
    for m in (1, 3, 12, 17, 32, 50, 65):
        x = normal(m, 45, dtype="bfloat16")
        out = guarded((m, 75), BF16, at_end)
        compiled(copied(x, at_end), out=out)
        np.testing.assert_array_equal(out, compiled(x))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinities_and_nan_stay_in_their_rows(value: float) -> None:
    twin, x = dense(45, 75), normal(40, 45, dtype="bfloat16")
    for row, column in ((3, 0), (20, 31), (33, 44)):  # the last ones lie before another row
        x[row, column] = value
    twin.agrees(x)
    assert not np.isfinite(twin.compiled(x).astype(np.float32)[[3, 20, 33]]).any()


def test_weights_that_are_infinite_or_none_stay_in_their_columns() -> None:
    layer = tl.Dense(75, input_dim=45, dtype="bfloat16")
    kernel = normal(45, 75)
    kernel[44, 5], kernel[0, 74] = np.inf, np.nan
    layer.set_weights([kernel, np.zeros(75)])
    Twin(layer, seed=None, target=TARGET).agrees(normal(40, 45, dtype="bfloat16"))


def test_subnormal_numbers_may_count_as_zeros() -> None:
    x = normal(40, 45) * np.float32(1e-39)
    dense(45, 75).agrees(x.astype(BF16))


def test_a_softmax_takes_the_sums_as_they_are() -> None:
    twin = dense(64, 200, "softmax")
    twin.agrees_for_every_batch(normal(50, 64, dtype="bfloat16"), batches=(2, 3, 50))


def products(target: str, dtype: str = "bfloat16", k: int = 64, n: int = 64) -> int:
    layer = tl.Dense(n, input_dim=k, dtype=dtype)
    selector = Selector(targets.resolve(target), use_records=False)
    return assembly(as_model(layer), selector).count("tdpbf16ps")


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4", "znver4", "znver5"])
def test_targets_without_the_unit_do_without(target: str) -> None:
    assert products(target) == 0


def test_float16_and_small_layers_do_without() -> None:
    assert products(TARGET) > 0
    assert [products(TARGET, "float16"), products(TARGET, k=31), products(TARGET, n=31)] == [0] * 3


DENIED = """
    import ctypes
    import numpy as np

    class Stack(ctypes.Structure):
        _fields_ = [("at", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    # Linux refuses the unit to a process whose signal stack could not hold its registers.
    libc = ctypes.CDLL(None)
    room = ctypes.create_string_buffer(8192)
    assert libc.sigaltstack(ctypes.byref(Stack(ctypes.addressof(room), 0, 8192)), None) == 0
    assert libc.syscall(158, 0x1023, 18) != 0, "the unit was granted"

    import tvmlayers as tl

    layer = tl.Dense(75, input_dim=45, dtype="bfloat16")
    compiled = tl.compile(layer, target="sapphirerapids")
    x = np.random.default_rng(0).standard_normal((65, 45)).astype("bfloat16")
    exact = x.astype(np.float64) @ layer.weights["kernel"].astype(np.float64)
    for rows in (65, 31, 12, 3):
        found = compiled(x[:rows]).astype(np.float64)
        np.testing.assert_allclose(found, exact[:rows], rtol=2**-8, atol=1e-5)
    assert libc.syscall(158, 0x1023, 18) != 0, "the unit was granted meanwhile"
"""


def test_where_linux_refuses_the_unit_the_vector_units_compute() -> None:
    done: Any = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DENIED)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
