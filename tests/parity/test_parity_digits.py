"""Inputs in digits by weights as codes: exact sums, and what PyTorch makes of the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agreement import Twin, needs, normal, on_cpu

import tvmlayers as tl
from tvmlayers.runtime.compiled import Compiled
from tvmlayers.schedule import Selector
from tvmlayers.spaces import gemm
from tvmlayers.targets import Target, resolve
from tvmlayers.workload import Workload

pytest.importorskip("torch")
pytestmark = on_cpu

BATCHES = (1, 2, 3, 7, 12, 33, 100)
SAPPHIRERAPIDS = needs("sapphirerapids")
CASES = [
    (130, 100, "int8", None, None),
    (192, 100, "int8", None, "int8"),
    (200, 70, "int8", 64, "int16"),
    (200, 72, "int4", 32, None),
    (131, 37, "int4", "channel", "int8"),
    (64, 1, "int4", 32, None),
]


def hard(k: int, n: int) -> np.ndarray:
    """A normal kernel with a column of zeros, one of next to nothing and one with an outlier."""
    made = normal(k, n, seed=k + n) / np.float32(np.sqrt(k))
    if n > 2:
        made[:, 0], made[3, 2] = 0, 1000
        made[:, 1] *= np.float32(1e-38)
    return made.astype(np.float32)


def inputs(m: int, k: int) -> np.ndarray:
    """Rows of normal numbers, and rows of zeros, with an outlier, of large and of small ones."""
    x = normal(m, k)
    x[0::7, 5], x[1::7], x[2::7], x[3::7] = 1e4, 0, x[2::7] * 1e20, x[3::7] * np.float32(1e-25)
    return x


def agrees(
    k: int, n: int, weights: str, granularity: Any, activations: str | None, target: str
) -> None:
    layer = tl.Dense(n, "relu", input_dim=k)
    layer.set_weights([hard(k, n), normal(n, seed=3)])
    made = tl.quantize(
        layer,
        weights=weights,
        granularity=granularity,
        activations=activations,
    )
    twin = Twin(made, seed=None, target=target)
    twin.agrees_for_every_batch(inputs(100, k), batches=BATCHES)


@pytest.mark.parametrize("target", [SAPPHIRERAPIDS])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_digits_agree_for_every_batch(case: tuple[Any, ...], target: str) -> None:
    agrees(*case, target)


@pytest.mark.parametrize("target", [needs("x86-64-v3")])
@pytest.mark.parametrize("case", CASES[2:5], ids=str)
def test_without_byte_products_numbers_are_widened(case: tuple[Any, ...], target: str) -> None:
    agrees(*case, target)


@pytest.fixture(scope="module")
def whole() -> Compiled:
    """Codes up to the ends of int8, and scales of 1."""
    layer = tl.Dense(70, use_bias=False, input_dim=128, stored="int8")
    codes = np.random.default_rng(1).integers(-127, 128, (128, 70)).astype(np.int8)
    codes[:, 0], codes[:, 1] = 127, -127
    layer.set_weights([codes, np.ones(70, np.float32)])
    compiled = tl.compile(layer, threads=2)
    assert isinstance(compiled, Compiled)
    return compiled


@pytest.mark.parametrize("m", [1, 2, 5, 40])
def test_products_of_whole_numbers_are_exact(whole: Compiled, m: int) -> None:
    # All sums are below 2^24: with digits, of which one carries into the next, nothing is rounded.
    x = np.random.default_rng(m).integers(-1000, 1001, (m, 128)).astype(np.float32)
    x[0, :5] = 127, 128, -128, -129, 255
    kernel = np.random.default_rng(1).integers(-127, 128, (128, 70))
    kernel[:, 0], kernel[:, 1] = 127, -127
    np.testing.assert_array_equal(whole(x), x.astype(np.float64) @ kernel)


def test_rows_with_infinities_and_nan_come_out_as_of_float_weights(whole: Compiled) -> None:
    for m in (3, 40):
        x = normal(m, 128)
        wanted = whole(x)
        x[1, 3], x[2, 7] = np.nan, np.inf
        result = whole(x)
        assert np.isnan(result[1]).all()
        assert not np.isfinite(result[2, 0]).any()
        np.testing.assert_allclose(result[0], wanted[0], rtol=1e-5, atol=1e-3)


def test_a_long_sum_at_the_ends_of_its_digits_does_not_overflow() -> None:
    k = 70_000
    layer = tl.Dense(20, use_bias=False, input_dim=k, stored="int8:int8")
    codes = np.full((k, 20), 127, np.int8)
    codes[:, ::2] = -127
    layer.set_weights([codes, np.ones(20, np.float32)])
    x = np.ones((2, k), np.float32)
    x[1] = -1
    wanted = x.astype(np.float64) @ codes.astype(np.float64)
    np.testing.assert_allclose(tl.compile(layer)(x), wanted, rtol=1e-6)


def dense(stored: str, m: int = 8, k: int = 256, n: int = 96) -> Workload:
    traits = {"dtype": "float32", "activation": "linear", "stored": stored}
    return Workload.make("dense", m=m, k=k, n=n, **traits)


def units(workload: Workload, target: str) -> set[str]:
    resolved = resolve(target)
    assert isinstance(resolved, Target)
    regimes = Selector(resolved, use_records=False).regimes(workload)
    return {gemm.Tile.of(regime.decisions).unit for regime in regimes}


def test_units_follow_the_flags_of_the_target() -> None:
    assert units(dense("int8"), "sapphirerapids") == {gemm.VNNI, gemm.AMX_DIGITS}
    assert units(dense("int8"), "znver4") == {gemm.VNNI}
    assert units(dense("int8"), "x86-64-v4") == {"", gemm.UNPACKED}
    assert units(dense("int4/32"), "x86-64-v3") == {"", gemm.UNPACKED}
    assert units(dense("int8"), "neoverse-v1") >= {""}
    assert gemm.VNNI not in units(dense("float16"), "sapphirerapids")


def test_int32_holds_as_many_products_as_are_taken() -> None:
    target = resolve("znver4")
    assert isinstance(target, Target)
    assert gemm.digit_tiles(dense("int8", k=gemm.MOST_DIGIT_STEPS), target)
    assert not gemm.digit_tiles(dense("int8", k=gemm.MOST_DIGIT_STEPS + 1), target)
    assert gemm.MOST_DIGIT_STEPS * 128 * 128 < 2**31


@pytest.mark.parametrize(
    ("target", "has_vectors", "has_amx"),
    [("sapphirerapids", True, True), ("znver4", True, False), ("x86-64-v4", False, False)],
)
def test_code_has_no_instruction_that_the_target_lacks(
    target: str, has_vectors: bool, has_amx: bool
) -> None:
    from tvmlayers.codegen.compiler import assembly
    from tvmlayers.layers import as_model

    resolved = resolve(target)
    assert isinstance(resolved, Target)
    layer = tl.Dense(64, input_dim=64, seed=1, stored="int8")
    code = assembly(as_model(layer), Selector(resolved, use_records=False))
    assert ("vpdpbusd" in code) == has_vectors
    assert ("tdpbsud" in code) == has_amx


def test_the_report_says_from_how_many_rows_panels_are_unpacked() -> None:
    layer = tl.Dense(64, input_dim=64, seed=1)
    of = {
        kind: tl.compile(tl.quantize(layer, weights=kind), target="x86-64-v4").report()[0]
        for kind in ("float16", "int4")
    }
    assert 1 < of["int4"]["unpacked_from"] < of["float16"]["unpacked_from"]
    assert "unpacked_from" not in tl.compile(layer, target="x86-64-v4").report()[0]


def test_layers_of_halves_have_no_panels_to_unpack() -> None:
    traits = {"dtype": "float16", "activation": "linear", "stored": "float16"}
    halves = Workload.make("dense", m=8, k=256, n=96, **traits)
    assert units(halves, "x86-64-v4") == {""}
