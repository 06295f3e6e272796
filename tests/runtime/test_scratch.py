"""What passes between kernels lies in memory that calls share and keep."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from together import together

import tvmlayers as tl
from tvmlayers.runtime import scratch
from tvmlayers.runtime.bound import BoundCall


def two_layers(width: int = 256) -> tl.Sequential:
    return tl.Sequential([tl.Dense(width, activation="relu", input_dim=8), tl.Dense(3)])


def expected(model: tl.Sequential, x: np.ndarray) -> np.ndarray:
    kernel, bias, second, offset = model.get_weights()
    return np.maximum(x @ kernel + bias, 0) @ second + offset


def test_scratch_grows_with_the_batch() -> None:
    model = two_layers()
    compiled = tl.compile(model, threads=1)
    for batch in (1, 5000, 2, 0):
        x = np.random.default_rng(batch).normal(size=(batch, 8)).astype(np.float32)
        np.testing.assert_allclose(compiled(x), expected(model, x), rtol=1e-4, atol=1e-5)


def test_scratch_is_kept_for_the_next_call() -> None:
    compiled = tl.compile(two_layers(), threads=1)
    x = np.zeros((4096, 8), np.float32)
    compiled(x)
    kept, _ = scratch._free[-1]
    compiled(x)
    assert scratch._free[-1][0] is kept


def test_a_model_of_one_kernel_takes_no_scratch() -> None:
    compiled = tl.compile(tl.Sequential([tl.Dense(3, input_dim=8)]), threads=1)
    assert not any(entry["scratch"] for entry in compiled.manifest["entries"])


def test_threads_do_not_share_scratch() -> None:
    model = two_layers()
    compiled = tl.compile(model, threads=1)
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).normal(size=(300 + seed, 8)).astype(np.float32)
        right = expected(model, x)
        for _ in range(50):
            if not np.allclose(compiled(x), right, rtol=1e-4, atol=1e-5):
                wrong.append(seed)

    together(work, range(4))
    assert not wrong


def bound_batches(
    model: tl.Sequential, batches: tuple[int, ...]
) -> tuple[list[BoundCall], list[np.ndarray]]:
    compiled = tl.compile(model, threads=1)
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(batch, 8)).astype(np.float32) for batch in batches]
    return [compiled.bind(x) for x in inputs], [expected(model, x) for x in inputs]


def test_bound_calls_share_a_large_scratch(scratch_made: list[int]) -> None:
    calls, right = bound_batches(two_layers(2048), (5000, 3000, 5000))
    for call, result in zip(calls, right, strict=True):
        np.testing.assert_allclose(call(), result, rtol=1e-4, atol=1e-5)
    assert len([nbytes for nbytes in scratch_made if nbytes > scratch.SMALLEST]) == 1


def test_bound_calls_in_threads_do_not_share_scratch() -> None:
    calls, right = bound_batches(two_layers(2048), (400, 401, 3, 4))
    wrong: list[int] = []

    def work(place: int) -> None:
        for _ in range(100):
            if not np.allclose(calls[place](), right[place], rtol=1e-4, atol=1e-5):
                wrong.append(place)

    together(work, range(4))
    assert not wrong


def many_together(compiled: tl.Compiled, count: int) -> None:
    """`count` calls, which all begin once every thread is there."""
    x = np.zeros((64, 8), np.float32)
    begun = threading.Barrier(count)

    def work() -> None:
        begun.wait()
        compiled(x)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def kept() -> list[int]:
    return [nbytes for _, nbytes in scratch._free]


def test_scratch_goes_with_the_model(scratch_made: list[int]) -> None:
    large, small = tl.compile(two_layers(8192), threads=1), tl.compile(two_layers(1024), threads=1)
    small(np.zeros((64, 8), np.float32))
    needed = max(kept())
    assert needed > scratch.SMALLEST
    many_together(large, 4)
    assert max(kept()) > needed
    small(np.zeros((64, 8), np.float32))  # finds what the other model left
    del large
    assert max(kept(), default=0) <= needed
    del small
    assert max(kept(), default=0) <= scratch.SMALLEST


def needing(nbytes: int) -> Callable[..., int]:
    """What compiled code that needs so much scratch answers to it, its last argument."""
    return lambda *given: 0 if given[-1].shape[0] >= nbytes else -nbytes


def test_what_is_kept_has_a_bound(scratch_made: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "MOST_KEPT", 12 << 20)
    for _ in range(3):  # as calls at the same time leave it
        scratch._free.appendleft(scratch._new_scratch(5 << 20))
    scratch._free.append(scratch._new_scratch(scratch.SMALLEST))
    functions = [scratch.with_scratch(needing(each << 20)) for each in (7, 11, 13)]
    assert functions[0](1) == 0
    assert max(kept()) >= 7 << 20
    assert sum(kept()) <= 12 << 20
    assert functions[1](1) == 0
    assert max(kept()) >= 11 << 20  # there was no room to grow into
    assert sum(kept()) <= 12 << 20
    assert functions[2](1) == 0  # more than all that may be kept
    assert sum(kept()) <= 12 << 20


def test_scratch_of_a_bound_call_goes_with_it(scratch_made: list[int]) -> None:
    bound = scratch.bound_to(needing(1 << 20), (1, 2))
    bound()
    assert max(kept()) >= 1 << 20
    del bound
    assert max(kept(), default=0) <= scratch.SMALLEST
