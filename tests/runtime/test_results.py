"""Memory for results is used again, and only when nobody can see it any more."""

from __future__ import annotations

import numpy as np
import pytest
from together import together

from tvmlayers.artifact.arena import address
from tvmlayers.runtime.results import MOST_KEPT, REUSE_FROM, ResultPool, empty

FLOAT = np.dtype("float32")
SHAPE = (REUSE_FROM // 4, 4)


def taken(pool: ResultPool, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return pool.take(shape, FLOAT, 4 * int(np.prod(shape)))


def test_memory_of_a_dropped_result_is_used_again() -> None:
    pool = ResultPool()
    first = taken(pool)
    place = address(first)
    del first
    assert address(taken(pool)) == place


def test_memory_of_a_held_result_is_left_alone() -> None:
    pool = ResultPool()
    held = [taken(pool) for _ in range(8)]
    assert len({address(array) for array in held}) == 8


@pytest.mark.parametrize("view", [lambda a: a[3:5], lambda a: a.T, memoryview, lambda a: a.flat])
def test_a_view_alone_keeps_the_memory(view: object) -> None:
    pool = ResultPool()
    result = taken(pool)
    place, kept = address(result), view(result)
    del result
    assert address(taken(pool)) != place
    del kept


def test_a_torch_tensor_keeps_the_memory() -> None:
    torch = pytest.importorskip("torch")
    pool = ResultPool()
    result = taken(pool)
    place, tensor = address(result), torch.from_numpy(result)
    del result
    assert address(taken(pool)) != place
    del tensor


def test_a_smaller_result_does_not_take_a_much_larger_block() -> None:
    pool = ResultPool()
    large = taken(pool, (SHAPE[0] * 16, 4))
    place = address(large)
    del large
    assert address(taken(pool)) != place


def test_very_large_blocks_are_let_go() -> None:
    pool = ResultPool()
    shape = (MOST_KEPT // 4 + 1,)
    taken(pool, shape)
    assert not pool._blocks


def test_results_begin_at_a_cache_line() -> None:
    assert all(address(empty(SHAPE, FLOAT)) % 64 == 0 for _ in range(5))


def test_threads_never_share_a_block() -> None:
    pool, clashes = ResultPool(), []

    def work(mark: int) -> None:
        for _ in range(2000):
            array = taken(pool)
            array[0] = mark
            array[-1] = mark
            if not (array[0] == mark).all() or not (array[-1] == mark).all():
                clashes.append(mark)

    together(work, range(4))
    assert not clashes
