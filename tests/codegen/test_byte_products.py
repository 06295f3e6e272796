"""Products of bytes: which targets have them, and which rows of a layer they are taken for."""

from __future__ import annotations

import re

import pytest

import tvmlayers as tl
from tvmlayers.codegen.compiler import assembly
from tvmlayers.layers import as_model
from tvmlayers.schedule import Selector
from tvmlayers.spaces import gemm
from tvmlayers.targets import Target, resolve
from tvmlayers.workload import Workload


def dense(stored: str, m: int = 8, k: int = 256, n: int = 96) -> Workload:
    traits = {"dtype": "float32", "activation": "linear", "stored": stored}
    return Workload.make("dense", m=m, k=k, n=n, **traits)


def units(workload: Workload, target: str) -> set[str]:
    resolved = resolve(target)
    assert isinstance(resolved, Target)
    regimes = Selector(resolved, use_records=False).regimes(workload)
    return {gemm.Tile.of(regime.decisions).unit for regime in regimes}


def test_units_follow_the_flags_of_the_target() -> None:
    assert units(dense("int8"), "sapphirerapids") == {gemm.DIGITS, gemm.AMX_DIGITS}
    assert units(dense("int8"), "znver4") == {gemm.DIGITS}
    assert units(dense("int8"), "x86-64-v4") == {"", gemm.UNPACKED}
    assert units(dense("int4/32"), "x86-64-v3") == {"", gemm.UNPACKED}
    for core in ("neoverse-n1", "neoverse-v1"):
        assert units(dense("int8"), core) == units(dense("int4/32"), core) == {gemm.DIGITS}
    assert units(dense("int8"), "cortex-a72") == {"", gemm.UNPACKED}
    assert gemm.DIGITS not in units(dense("float16"), "sapphirerapids")


def test_int32_holds_as_many_products_as_are_taken() -> None:
    target = resolve("znver4")
    assert isinstance(target, Target)
    assert gemm.digit_tiles(dense("int8", k=gemm.MOST_DIGIT_STEPS), target)
    assert not gemm.digit_tiles(dense("int8", k=gemm.MOST_DIGIT_STEPS + 1), target)
    assert gemm.MOST_DIGIT_STEPS * 128 * 128 < 2**31


@pytest.mark.parametrize(
    ("target", "products"),
    [
        ("sapphirerapids", {"vpdpbusd", "tdpbsud"}),
        ("znver4", {"vpdpbusd"}),
        ("x86-64-v4", set()),
        ("neoverse-v1", {"usdot"}),
        ("neoverse-n1", {"sdot"}),
        ("cortex-a72", set()),
    ],
)
def test_code_has_no_instruction_that_the_target_lacks(target: str, products: set[str]) -> None:
    resolved = resolve(target)
    assert isinstance(resolved, Target)
    layer = tl.Dense(64, input_dim=64, seed=1, stored="int8")
    code = assembly(as_model(layer), Selector(resolved, use_records=False))
    assert set(re.findall(r"\t(vpdpbusd|tdpbsud|usdot|sdot)\t", code)) == products


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
