"""Case strings are read into cases and back; the public cases are all there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import cases, specs
from bench.cases import BagCase, CaseError, DenseCase, EmbeddingCase, ModelCase

sizes = st.integers(1, 10**7)
distributions = st.sampled_from(cases.DISTRIBUTIONS)


@pytest.mark.parametrize(
    ("kind", "spec", "case"),
    [
        ("dense", "7x333x129:tanh", DenseCase(7, 333, 129, "tanh")),
        ("dense", "1x2x3", DenseCase(1, 2, 3, None)),
        ("dense", "1x2x3:linear", DenseCase(1, 2, 3, None)),
        ("embedding", "1000000x64x4096:zipf", EmbeddingCase(1000000, 64, 4096, "zipf")),
        ("embedding", "5x4x3", EmbeddingCase(5, 4, 3, "uniform")),
        ("bag", "1000000x64x2048x100:sum", BagCase(1000000, 64, 2048, 100, 100, "sum")),
        ("bag", "10x64x2x5:max:zipf", BagCase(10, 64, 2, 5, 5, "max", "zipf")),
        ("bag", "10x64x2x0..60:sum", BagCase(10, 64, 2, 0, 60, "sum")),
        ("bag", "10x64x2x5", BagCase(10, 64, 2, 5, 5, "mean")),
        ("model", "two-tower@8", ModelCase("two tower", 8)),
    ],
)
def test_case_string_is_read(kind: str, spec: str, case: cases.Case) -> None:
    assert specs.parse(kind, spec) == case


@given(st.builds(DenseCase, sizes, sizes, sizes, st.sampled_from([None, "relu", "gelu_tanh"])))
def test_dense_spec_reads_back(case: DenseCase) -> None:
    assert specs.parse("dense", case.spec) == case


@given(st.builds(EmbeddingCase, sizes, sizes, sizes, distributions))
def test_embedding_spec_reads_back(case: EmbeddingCase) -> None:
    assert specs.parse("embedding", case.spec) == case


@given(
    sizes,
    st.tuples(st.integers(0, 99), st.integers(1, 99)).map(sorted),
    st.sampled_from(cases.MODES),
    distributions,
)
def test_bag_spec_reads_back(size: int, length: list[int], mode: str, distribution: str) -> None:
    case = BagCase(size, size, size, *length, mode, distribution)
    assert specs.parse("bag", case.spec) == case


@pytest.mark.parametrize("kind", cases.KINDS)
def test_public_and_odd_cases_read_back(kind: str) -> None:
    for case in [*cases.public(kind), *cases.odd(kind)]:
        assert case.kind == kind
        assert specs.parse(kind, case.spec).spec == case.spec


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("dense", "7x333"),
        ("dense", "7x333x"),
        ("dense", "0x3x4:relu"),
        ("dense", "-7x3x4"),
        ("dense", "7x3x4:relu:relu"),
        ("embedding", "10x4x3:normal"),
        ("embedding", "10x0x3"),
        ("bag", "10x4x3"),
        ("bag", "10x4x3x5:median"),
        ("bag", "10x4x3x9..5:sum"),
        ("bag", "10x4x3x0:sum"),
        ("model", "seed"),
        ("model", "seed@0"),
        ("model", "unheard of@1"),
        ("convolution", "1x1x1"),
    ],
)
def test_bad_case_string_is_refused(kind: str, spec: str) -> None:
    with pytest.raises(CaseError):
        specs.parse(kind, spec)


def test_error_shows_the_form() -> None:
    with pytest.raises(CaseError, match="MxKxN:activation"):
        specs.parse("dense", "7 by 9")


def test_models_take_any_batch() -> None:
    assert cases.models("seed", [5]) == [ModelCase("seed", 5)]
    assert [case.batch for case in cases.models("two tower")] == [1, 128, 2048]
