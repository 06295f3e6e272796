"""The hand-written models, for tests of what calls compiled code."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import handmade
import pytest
from hypothesis import HealthCheck, settings

from tvmlayers.runtime import scratch
from tvmlayers.runtime.compiled import Compiled

# The tests of `make check`, folders and files: seconds each, and among them every kind of kernel.
QUICK = (
    *("artifact", "layers", "records", "schedule", "targets", "testing"),
    *("bench/test_bench_cases.py", "bench/test_bench_stats.py", "bench/test_bench_timing.py"),
    *("cli/test_cli.py", "codegen/test_cross_linking.py", "parity/test_parity_calls.py"),
    *("test_errors.py", "test_import.py", "test_imports.py"),
    *(
        f"runtime/test_{name}.py"
        for name in ("diagnose", "results", "runtime", "scratch", "tensors")
    ),
)

# The same examples everywhere, as slow as a machine may be, and no folder of them. Fresh ones:
# pytest --hypothesis-profile=default
settings.register_profile(
    "same",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    quick = [Path(__file__).parent / name for name in QUICK]
    assert all(path.exists() for path in quick)
    for item in items:
        if any(item.path.is_relative_to(path) for path in quick):
            item.add_marker(pytest.mark.quick)


@pytest.fixture(scope="session", autouse=True)
def nothing_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's own tuned records and trials neither decide what happens here nor change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))
        patch.setenv("TVMLAYERS_RECORDS", str(tmp_path_factory.mktemp("records")))
        patch.setenv("TVMLAYERS_TUNING", str(tmp_path_factory.mktemp("tuning")))
        yield


@pytest.fixture
def scratch_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each scratch that is made from now on.

    None is kept yet, and no function of another test, alive or dead, counts.
    """
    made: list[int] = []
    make = scratch._new_scratch

    def remember(nbytes: int) -> object:
        made.append(nbytes)
        return make(nbytes)

    monkeypatch.setattr(scratch, "_new_scratch", remember)
    monkeypatch.setattr(scratch, "_free", deque())
    monkeypatch.setattr(scratch, "_made_for", {})
    return made


@pytest.fixture(scope="session")
def embedding() -> Compiled:
    """ids (n, 10) -> rows (n, 10, 4) of a table of 5 rows; out-of-range indices raise."""
    return handmade.make(handmade.embedding_manifest())


@pytest.fixture(scope="session")
def bag() -> Compiled:
    """indices (n1,), offsets (n,) -> sums (n, 4)."""
    return handmade.make(handmade.bag_manifest())


@pytest.fixture(scope="session")
def scale() -> Compiled:
    """x (n, 3) float32 -> [2 * x, x[:, 0]]."""
    return handmade.make(handmade.scale_manifest())


@pytest.fixture(scope="session")
def spread() -> Compiled:
    """x (n, 3) float32 -> x * threads, in parallel."""
    return handmade.make(handmade.spread_manifest(), threads=2)
