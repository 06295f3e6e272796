"""Arrays may lie anywhere in memory, and no memory is touched that is not theirs."""

from __future__ import annotations

import gc
import os
import subprocess
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from agreement import Array, indices, normal
from handmade import STRICT
from samples import every_input, sample

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.codegen.streaming import stream_from

DTYPES = ("float32", "float64")


def at(array: Array, offset: int) -> Array:
    """A copy that begins `offset` bytes behind a multiple of 64, other bytes around it set."""
    block = np.full(array.nbytes + 192, 0x5A, np.uint8)
    start = -block.ctypes.data % 64 + 64 + offset
    made = np.ndarray(array.shape, array.dtype, block.data, start)
    made[...] = array
    return made


def surroundings_are_untouched(array: Array) -> bool:
    block = array.base if isinstance(array.base, np.ndarray) else np.frombuffer(array.base, "u1")
    start = array.ctypes.data - block.ctypes.data
    around = np.concatenate([block[:start], block[start + array.nbytes :]])
    return bool((around == 0x5A).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 3, 37])
def test_inputs_and_results_may_begin_at_any_address(batch: int, dtype: str) -> None:
    compiled = sample(dtype).compiled
    ids, x = every_input(batch, dtype)
    wanted = compiled(ids, x)
    for place in range(0, 64, x.itemsize):
        out = [
            at(np.zeros_like(array), (place + 4 * i) % 64 // x.itemsize * x.itemsize)
            for i, array in enumerate(wanted)
        ]
        given = at(ids, place // 8 * 8), at(x, place)
        assert compiled(*given, out=out) is out
        for array, want in zip(out, wanted, strict=True):
            np.testing.assert_array_equal(array, want)
            assert surroundings_are_untouched(array)
        assert all(map(surroundings_are_untouched, given))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_result_past_the_caches_may_begin_at_any_address(dtype: str) -> None:
    written_past_caches("native", dtype)


def written_past_caches(target: str, dtype: str) -> None:
    """AssertionError where a large result is another than that of the same rows in small calls."""
    ids, x = tl.Input((), dtype="int64"), tl.Input((48,), dtype=dtype)
    both = tl.Add()([x, x])
    outputs = [
        (ids, tl.Embedding(97, 48, dtype=dtype)(ids)),
        (x, tl.Activation("log_softmax")(x)),
        (x, tl.LayerNormalization(dtype=dtype)(x)),
        (x, tl.RMSNormalization(dtype=dtype)(both)),
    ]
    for given, output in outputs:
        compiled = tl.compile(tl.Model(given, output), target=target)
        count = stream_from(targets.resolve(target)) // (48 * np.dtype(dtype).itemsize) + 5
        many = indices(97, count) if given is ids else np.tile(normal(101, 48), (count, 1))[:count]
        many = many if given is ids else many.astype(dtype)
        wanted = np.concatenate([compiled(many[i : i + 5000]) for i in range(0, count, 5000)])
        for place in (0, wanted.itemsize, 16, 32):
            out = at(np.zeros_like(wanted), place)
            compiled(many, out=out)
            np.testing.assert_array_equal(out, wanted)
            assert surroundings_are_untouched(out)


@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_bags_may_begin_at_any_address(index_dtype: str) -> None:
    compiled = tl.compile(tl.EmbeddingBag(97, 16, mode="sum"))
    ids, factors = indices(97, 50, dtype=index_dtype), normal(50)
    offsets = np.array([0, 3, 3, 20], index_dtype)
    wanted = compiled(ids, offsets, per_sample_weights=factors)
    for place in range(0, 64, ids.itemsize):
        out = at(np.zeros_like(wanted), place)
        given = at(ids, place), at(offsets, (place + 24) % 64), at(factors, place)
        np.testing.assert_array_equal(compiled(*given, out=out), wanted)
        assert surroundings_are_untouched(out)


def test_nothing_is_read_or_written_beyond_any_array() -> None:
    beyond("native")


def beyond(target: str) -> None:
    """AssertionError where code for the target touches what is not its own."""
    program = [*STRICT, str(Path(__file__).with_name("guarded.py")), target]
    environment = {**os.environ, "PYTHONPATH": str(Path(tl.__file__).parents[1])}
    result = subprocess.run(program, capture_output=True, text=True, timeout=600, env=environment)
    assert result.stdout == "untouched\n", f"status {result.returncode}: {result.stderr[-2000:]}"


def test_earlier_results_are_not_written_to_again() -> None:
    # memory of results and intermediates is used again once nobody holds it
    twin = sample()
    batches = (400, 400, 300, 7, 400, 1, 400, 350)
    inputs = [
        (indices(97, batch, 5, seed=i), normal(batch, 31, seed=i))
        for i, batch in enumerate(batches)
    ]
    results = [twin.compiled(*given) for given in inputs]
    views = [[result[-1:] for result in twin.compiled(*given)] for given in inputs]
    for given, result, view in zip(inputs, results, views, strict=True):
        wanted = twin.reference(*given)
        twin.compare(result, wanted)
        for last, whole in zip(view, result, strict=True):
            np.testing.assert_array_equal(last, whole[-1:])


def test_calls_from_several_threads_do_not_mix() -> None:
    twin = sample()
    batches = (1, 3, 64, 333, 900)
    inputs = [every_input(batch) for batch in batches]
    wanted = [twin.compiled(*given) for given in inputs]

    def work(start: int) -> None:
        for turn in range(40):
            place = (start + turn) % len(batches)
            for left, right in zip(twin.compiled(*inputs[place]), wanted[place], strict=True):
                np.testing.assert_array_equal(left, right)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, start) for start in range(4)]:
            done.result()


@pytest.mark.parametrize("is_compiled", [False, True])
def test_unpacked_weights_go_with_their_model_and_wait_for_no_collector(is_compiled: bool) -> None:
    first = tl.Embedding(50, 8, input_length=4)
    model = tl.Sequential([first, tl.Flatten(), tl.Dense(6, "softmax")])
    model.build()
    ids = indices(50, 3, 4)
    compiled = tl.compile(model) if is_compiled else None
    before = None if compiled is None else compiled(ids)
    table = weakref.ref(first.weights["embeddings"])
    gc.disable()
    try:
        del model, first
        assert table() is None
    finally:
        gc.enable()
    if compiled is not None:
        np.testing.assert_array_equal(compiled(ids), before)
