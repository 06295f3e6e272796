"""AMX: as right as float32 on the vector units, for any shape and any value."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from agreement import Array
from guarded import copied, guarded

import tvmlayers as tl
from tvmlayers import Compiled, targets
from tvmlayers.codegen.compiler import compile_selected
from tvmlayers.layers import as_model
from tvmlayers.schedule import Selector
from tvmlayers.spaces import gemm
from tvmlayers.spaces.choices import Decisions

SPR = targets.TARGETS["sapphirerapids"]
UNIT: Decisions = {
    "tile": "amx:32x4",
    "streams": 1,
    "k_unroll": 1,
    "prefetch_steps": 0,
    "next_lines": 0,
    "k_block": 0,
    "row_block": 64,
    "split": "rows",
    "grain_kmacs": 48,
}
VECTORS: Decisions = {**UNIT, "tile": "6x4"}

pytestmark = pytest.mark.skipif(
    bool(targets.obstacle(SPR.triple, SPR.cpu_flags)), reason="this CPU has no AMX"
)


PACKED, MADE = "packed", "made"


@pytest.fixture(params=[PACKED, MADE])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether W is packed in the unit's form, as small ones are, or brought into it in the call."""
    if request.param == MADE:
        monkeypatch.setattr(gemm, "_MOST_PARTS_BYTES", 0)
    return str(request.param)


def dense(
    kernel: Array,
    decisions: Decisions,
    *,
    activation: str = "linear",
    bias: Array | None = None,
) -> Compiled:
    """A dense layer with given weights, compiled with given decisions, on one thread."""
    layer = tl.Dense(kernel.shape[1], activation, use_bias=bias is not None)
    model = as_model(tl.Sequential([tl.Input((kernel.shape[0],)), layer]), None)
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    return compile_selected(model, Selector(SPR, fixed={"dense": decisions}), 1)


def error(product: Array, x: Array, kernel: Array) -> float:
    """The root mean square of the errors, each relative to what its products sum up to."""
    exact = x.astype(np.float64) @ kernel.astype(np.float64)
    scale = np.abs(x).astype(np.float64) @ np.abs(kernel).astype(np.float64)
    return float(np.sqrt(np.mean(np.square((product - exact) / scale))))


def running_sums(x: Array, kernel: Array) -> Array:
    """x @ kernel, a product after the other, in float32."""
    total = np.zeros((len(x), kernel.shape[1]), np.float32)
    for column, row in zip(x.T, kernel, strict=True):
        total += column[:, None] * row
    return total


def drawn(kind: str, rng: np.random.Generator, *shape: int) -> Array:
    if kind == "positive":
        return rng.random(shape, np.float32)
    values = rng.standard_normal(shape)
    if kind == "spread":
        values *= 10.0 ** rng.uniform(-6, 6, shape)
    return values.astype(np.float32)


@pytest.mark.parametrize("k", [33, 256, 1500])
def test_the_unit_errs_no_more_than_running_sums(k: int) -> None:
    compiled = dense(np.zeros((k, 96), np.float32), UNIT)
    for kind in ("normal", "positive", "spread"):
        rng = np.random.default_rng(k)
        x, kernel = drawn(kind, rng, 64, k), drawn(kind, rng, k, 96)
        compiled.set_weights([kernel])
        on_unit = error(compiled(x), x, kernel)
        # The unit drops less than 2^-23 of each product.
        assert on_unit <= max(error(running_sums(x, kernel), x, kernel), 2.0**-23), kind


@pytest.mark.parametrize("kind", ["normal", "positive"])
def test_long_sums_on_the_unit_are_sums_of_partial_sums(kind: str) -> None:
    rng = np.random.default_rng(0)
    x, kernel = drawn(kind, rng, 32, 6144), drawn(kind, rng, 6144, 64)
    on_unit = error(dense(kernel, UNIT)(x), x, kernel)
    # A sum in blocks of a known length errs less with every block; a running sum of positive
    # numbers errs more.
    assert on_unit < error(running_sums(x, kernel), x, kernel) / 2


@pytest.mark.parametrize(
    ("k", "n"), [(1, 47), (31, 65), (32, 100), (65, 129), (160, 32), (65, 47), (31, 129), (160, 65)]
)
def test_every_rest_of_a_tile_is_computed(parts: str, k: int, n: int) -> None:
    rng = np.random.default_rng(n * 1000 + k)
    kernel, bias = drawn("normal", rng, k, n), drawn("normal", rng, n)
    blocked = {**UNIT, "k_block": 32 if parts == MADE and k > 63 else 0}
    compiled = dense(kernel, blocked, activation="relu", bias=bias)
    for m in (12, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 97, 130):
        x = drawn("normal", rng, m, k)
        expected = np.maximum(x.astype(np.float64) @ kernel + bias, 0)
        np.testing.assert_allclose(compiled(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("split", ["rows", "panels"])
def test_threads_share_the_work(split: str) -> None:
    rng = np.random.default_rng(0)
    kernel, bias = drawn("normal", rng, 200, 300), drawn("normal", rng, 300)
    decisions = {**UNIT, "split": split, "k_block": 64}
    compiled = dense(kernel, decisions, activation="gelu", bias=bias)
    for m in (13, 25, 32, 64, 150, 500):
        x = drawn("normal", rng, m, 200)
        compiled.threads = 1
        alone = compiled(x)
        for threads in (2, 3, 7):
            compiled.threads = threads
            np.testing.assert_allclose(compiled(x), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("at_end", [False, True])
def test_nothing_is_read_or_written_beside_the_tensors(at_end: bool) -> None:
    rng = np.random.default_rng(0)
    kernel = drawn("normal", rng, 45, 75)
    compiled = dense(kernel, UNIT)
    for m in (12, 17, 32, 50, 64, 65):
        x = drawn("normal", rng, m, 45)
        out = guarded((m, 75), np.float32, at_end)
        compiled(copied(x, at_end), out=out)
        np.testing.assert_array_equal(out, compiled(x))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(
    ("value", "where"),
    [
        *((np.inf, "both"), (np.nan, "kernel"), (-np.inf, "x")),
        *((3.4028235e38, "both"), (1e-40, "both")),
    ],
)
def test_values_beyond_the_unit_are_as_on_the_vector_units(value: float, where: str) -> None:
    rng = np.random.default_rng(0)
    all_x, kernel = drawn("normal", rng, 70, 40), drawn("normal", rng, 40, 66)
    if where in ("x", "both"):
        all_x[3, 5] = all_x[-1, 39] = value
    if where in ("kernel", "both"):
        kernel[7, 64] = kernel[5, 1] = value
    compiled = [dense(kernel, decisions) for decisions in (UNIT, VECTORS)]
    for m in (70, 65, 12):
        x = np.ascontiguousarray(all_x[-m:])
        on_unit, on_vectors = (each(x) for each in compiled)
        np.testing.assert_allclose(on_unit, on_vectors, rtol=1e-4, atol=1e-4)


def test_a_nan_of_any_bits_stays_one() -> None:
    bits = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000], np.uint32)
    rng = np.random.default_rng(0)
    x, kernel = drawn("normal", rng, 40, 32), drawn("normal", rng, 32, 32)
    x[::10, 3] = bits.view(np.float32)
    found = np.isnan(dense(kernel, UNIT)(x))
    assert found[::10].all()
    assert not np.delete(found, np.s_[::10], axis=0).any()


def test_packed_parts_are_those_that_a_call_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    kernel, x = drawn("spread", rng, 77, 90), drawn("spread", rng, 70, 77)
    packed = dense(kernel, UNIT)
    monkeypatch.setattr(gemm, "_MOST_PARTS_BYTES", 0)
    made = dense(kernel, UNIT)
    (size, *_), (less, *_) = (each.manifest["weights"][0]["shape"] for each in (packed, made))
    assert (size, less) == (77 * 96 + 3 * 6 * 3 * 256, 77 * 96)
    np.testing.assert_array_equal(packed(x), made(x))


def test_the_choice_is_the_unit_where_it_pays() -> None:
    model = as_model(tl.Sequential([tl.Input((1024,)), tl.Dense(1024)]), None)
    (row,) = compile_selected(model, Selector(SPR, use_records=False)).report()
    tiles = {regime["up_to"]: regime["decisions"]["tile"] for regime in row["regimes"]}
    assert tiles[None] == UNIT["tile"]
    assert tiles[1] == "1x4"


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

    model = tl.Sequential([tl.Input((256,)), tl.Dense(256)])
    x = np.random.default_rng(0).standard_normal((129, 256), dtype=np.float32)
    compiled = tl.compile(model, target="sapphirerapids")
    tiles = [regime["decisions"]["tile"] for regime in compiled.report()[0]["regimes"]]
    assert any(tile.startswith("amx:") for tile in tiles), tiles
    kernel = model.layers[-1].weights["kernel"]
    for rows in (129, 65, 31, 12):
        exact = x[:rows] @ kernel
        np.testing.assert_allclose(compiled(x[:rows]), exact, rtol=1e-4, atol=1e-5)
    assert libc.syscall(158, 0x1023, 18) != 0, "the unit was granted meanwhile"
"""


def test_where_linux_refuses_the_unit_the_vector_units_compute() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DENIED)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
