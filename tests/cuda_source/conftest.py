"""Which of these tests can run here, and the helpers of the parity tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "parity"))
sys.path.insert(0, str(Path(__file__).parent))

import emulator

# Of `make cuda` alone: every tile, dtype and tuned schedule, and what NVRTC makes of each.
KERNELS = ("test_cuda_halves", "test_cuda_stock", "test_cuda_tensor", "test_cuda_tuning")
TESTS = (
    "test_every_kernel_compiles_for_every_target_without_spills",
    "test_the_most_rows_of_a_bag_in_flight_spill_nothing",
    "test_every_tile_that_can_be_decided_agrees",
    "test_the_seed_model_agrees_on_every_target",
    "test_nvrtc_alone_is_enough",
    "test_dense_of_any_size_agrees_for_every_batch",
    "test_softmax_of_rows_of_any_length_agrees",
    "test_normalisations_of_rows_of_any_length_agree",
)


# Those that take a dtype run in float32 here, and in all of them by `make cuda`.
OF_DTYPES = ("test_every_kind_of_kernel_agrees_for_every_batch",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    for item in items:
        if not str(item.path).startswith(here):
            continue
        item.add_marker(pytest.mark.cuda_source)
        name, _, case = item.name.partition("[")
        is_other_dtype = name in OF_DTYPES and not case.endswith("float32]")
        if item.path.stem in KERNELS or name in TESTS or is_other_dtype:
            item.add_marker(pytest.mark.gpu_kernels)
        if emulator.COMPILER is None:
            item.add_marker(pytest.mark.skip("the emulated GPU needs g++, which is not here"))


@pytest.fixture(params=emulator.ORDERS, ids=["forwards", "backwards"])
def order(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads in rising order against memory that ends, or falling against one that begins."""
    emulator.device().emulated_set(*request.param)
    yield
    emulator.device().emulated_set(0, 0)
