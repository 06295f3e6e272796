"""Every kind of tensor that a compiled model takes, in every memory layout."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import handmade
import numpy as np
import pytest
from handmade import IDS, INTEGERS, ROWS, TABLE, Foreign
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tvmlayers as tl
from tvmlayers.artifact.arena import address
from tvmlayers.runtime import ffi
from tvmlayers.runtime.compiled import Compiled

torch = pytest.importorskip("torch")


def test_numpy_gives_numpy(embedding: Compiled) -> None:
    result = embedding(IDS)
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, TABLE[IDS])


@pytest.mark.parametrize("calls", [1, 2])
def test_torch_gives_torch(embedding: Compiled, calls: int) -> None:
    for _ in range(calls):
        result = embedding(torch.from_numpy(IDS))
    assert type(result) is torch.Tensor
    np.testing.assert_array_equal(result.numpy(), TABLE[IDS])


@pytest.mark.parametrize("calls", [1, 2])
def test_tvm_gives_tvm(embedding: Compiled, calls: int) -> None:
    for _ in range(calls):
        result = embedding(ffi.from_array(IDS.copy()))
    assert isinstance(result, ffi.Tensor)
    np.testing.assert_array_equal(np.from_dlpack(result), TABLE[IDS])


def test_an_array_of_another_library_gives_one_of_its_own(embedding: Compiled) -> None:
    result = embedding(Foreign(IDS.copy()))
    assert type(result) is Foreign
    np.testing.assert_array_equal(result.array, TABLE[IDS])


def test_nested_lists_give_numpy(embedding: Compiled, scale: Compiled) -> None:
    np.testing.assert_array_equal(embedding(IDS.tolist()), TABLE[IDS])
    doubled, first = scale([[1, 2.5, 3]])
    assert doubled.tolist() == [[2, 5, 6]]
    assert first.tolist() == [1]


def test_no_lists_at_all_are_no_sequences(bag: Compiled) -> None:
    assert bag([], []).shape == (0, 4)


def test_packed_arrays_are_not_copied(embedding: Compiled) -> None:
    seen: list[int] = []

    def spy(*arguments: Any) -> int:
        seen.append(address(np.from_dlpack(arguments[0])))
        return 0

    described = handmade.embedding_manifest()
    model = Compiled(described, lambda _: spy, np.zeros(1024, np.uint8), threads=1)
    read_only = IDS.copy()
    read_only.flags.writeable = False
    for ids in (IDS, read_only, IDS.astype(np.int32)):
        model(ids)
        assert seen.pop() == address(ids)
    tensor = torch.from_numpy(IDS)
    model(tensor)
    assert seen.pop() == tensor.data_ptr()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_integer_dtype_is_taken(embedding: Compiled, dtype: str) -> None:
    np.testing.assert_array_equal(embedding(IDS.astype(dtype)), TABLE[IDS])
    if hasattr(torch, dtype):
        tensor = torch.from_numpy(IDS.astype(dtype))
        np.testing.assert_array_equal(embedding(tensor).numpy(), TABLE[IDS])


@pytest.mark.parametrize("pair", list(itertools.product(INTEGERS, INTEGERS)), ids="-".join)
def test_indices_and_offsets_of_different_dtypes_are_widened_together(
    bag: Compiled, pair: tuple[str, str]
) -> None:
    indices, offsets = np.array([0, 1, 4], pair[0]), np.array([0, 2], pair[1])
    np.testing.assert_array_equal(bag(indices, offsets), [TABLE[0] + TABLE[1], TABLE[4]])


def _unaligned(ids: np.ndarray) -> np.ndarray:
    block = np.zeros(ids.nbytes + 1, np.uint8)
    found = np.ndarray(ids.shape, ids.dtype, block, 1)
    found[...] = ids
    return found


def _read_only(ids: np.ndarray) -> np.ndarray:
    found = ids.copy()
    found.flags.writeable = False
    return found


def _column_order(ids: np.ndarray) -> np.ndarray:
    return np.asfortranarray(ids)


def _backwards(ids: np.ndarray) -> np.ndarray:
    return ids[::-1, ::-1].copy()[::-1, ::-1]


def _strided(ids: np.ndarray) -> np.ndarray:
    return np.repeat(ids, 2, axis=1)[:, ::2]


def _swapped(ids: np.ndarray) -> np.ndarray:
    return ids.astype(ids.dtype.newbyteorder())


def _broadcast(ids: np.ndarray) -> np.ndarray:
    return np.broadcast_to(ids[:1], ids.shape)


def _part_of_a_row(ids: np.ndarray) -> np.ndarray:
    return np.hstack([ids, ids])[:1, :10]


LAYOUTS = [_unaligned, _read_only, _column_order, _backwards, _strided, _swapped, _broadcast]


@pytest.mark.parametrize("layout", [*LAYOUTS, _part_of_a_row])
def test_any_memory_layout_gives_the_same_rows(
    embedding: Compiled, layout: Callable[[np.ndarray], np.ndarray]
) -> None:
    ids = layout(IDS)
    np.testing.assert_array_equal(embedding(ids), TABLE[ids])


@pytest.mark.parametrize("layout", [_unaligned, _strided, _column_order, _part_of_a_row])
def test_any_layout_of_a_torch_tensor_gives_the_same_rows(
    embedding: Compiled, layout: Callable[[np.ndarray], np.ndarray]
) -> None:
    ids = layout(IDS)
    np.testing.assert_array_equal(embedding(torch.from_numpy(ids)).numpy(), TABLE[ids])


def test_torch_views_with_a_pending_sign_or_gradient_are_resolved(scale: Compiled) -> None:
    complex_numbers = torch.complex(torch.zeros(2, 3), torch.ones(2, 3))
    negative = complex_numbers.conj().imag
    assert negative.is_neg()
    trained = torch.nn.Parameter(torch.ones(2, 3))
    attached = trained * 1
    for _ in range(2):
        assert scale(negative)[0].tolist() == [[-2.0] * 3] * 2
        assert scale(trained)[0].tolist() == scale(attached)[0].tolist() == [[2.0] * 3] * 2


def test_numpy_subclasses_and_scalars_are_arrays_too(embedding: Compiled, tmp_path: Path) -> None:
    path = tmp_path / "ids.npy"
    np.save(path, IDS)
    np.testing.assert_array_equal(embedding(np.load(path, mmap_mode="r")), TABLE[IDS])
    with pytest.raises(tl.ShapeError, match="2 axes"):
        embedding(np.int64(3))


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_a_batch_of_nothing_gives_nothing(embedding: Compiled, kind: Any) -> None:
    result = embedding(kind(np.zeros((0, 10), np.int64)))
    assert tuple(result.shape) == (0, 10, 4)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_bags_of_nothing_are_zero(bag: Compiled, kind: Any) -> None:
    result = bag(kind(np.zeros(0, np.int64)), kind(np.zeros(3, np.int64)))
    assert result.tolist() == [[0.0] * 4] * 3


@given(
    ids=hnp.arrays(
        st.sampled_from(INTEGERS),
        st.tuples(st.integers(0, 40), st.just(10)),
        elements=st.integers(0, ROWS - 1),
    )
)
def test_any_batch_size_and_dtype_agree_with_numpy(ids: np.ndarray) -> None:
    model = handmade.make(handmade.embedding_manifest())
    np.testing.assert_array_equal(model(ids), TABLE[ids])


def test_a_large_result_starts_at_a_cache_line(embedding: Compiled) -> None:
    result = embedding(np.tile(IDS, (500, 1)))
    assert address(result) % 64 == 0
    np.testing.assert_array_equal(result, TABLE[np.tile(IDS, (500, 1))])


class OnlyDLPack:
    """A tensor that speaks DLPack, and neither the array API nor NumPy's ways."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_a_tensor_that_speaks_dlpack_alone_gives_numpy(embedding: Compiled) -> None:
    ids = IDS.copy()
    for call in (
        embedding,
        lambda value: embedding.bind(value)(),
        tl.Embedding(5, 4, weights=TABLE),
    ):
        for _ in range(2):
            result = call(OnlyDLPack(ids))
            assert type(result) is np.ndarray
            np.testing.assert_array_equal(result, TABLE[ids])
    layer = tl.Embedding(5, 4, weights=OnlyDLPack(TABLE))
    np.testing.assert_array_equal(layer.get_weights()[0], TABLE)


def test_an_ort_value_gives_numpy(embedding: Compiled) -> None:
    runtime = pytest.importorskip("onnxruntime")
    result = embedding(runtime.OrtValue.ortvalue_from_numpy(IDS))
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, TABLE[IDS])


def test_dlpack_without_a_device_is_refused(embedding: Compiled) -> None:
    class NoDevice:
        def __dlpack__(self, **arguments: Any) -> Any:
            return IDS.__dlpack__(**arguments)

    for call in (embedding, tl.Embedding(5, 4)):
        with pytest.raises(tl.DTypeError, match="no __dlpack_device__"):
            call(NoDevice())


def test_bound_results_are_numpy_where_a_library_would_copy_them(embedding: Compiled) -> None:
    class Copying(Foreign):
        def __array_namespace__(self, api_version: str | None = None) -> Any:
            class Namespace:
                from_dlpack = staticmethod(lambda array: Foreign(np.from_dlpack(array).copy()))

            return Namespace

    ids = IDS.copy()
    bound = embedding.bind(Copying(ids))
    ids[...] = 0
    np.testing.assert_array_equal(bound(), TABLE[ids])
    assert type(embedding.bind(Foreign(ids))()) is Foreign


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((1, 3)), r"\.astype\('float32'\)"),
        (torch.zeros(1, 3, dtype=torch.float64), r"\.to\(torch\.float32\)"),
        (OnlyDLPack(np.zeros((1, 3))), r"np\.from_dlpack\(x\)\.astype\('float32'\)"),
    ],
    ids=["numpy", "torch", "dlpack"],
)
def test_a_wrong_dtype_is_told_in_the_words_of_the_callers_library(
    scale: Compiled, value: Any, words: str
) -> None:
    for call in (scale, scale.bind):
        with pytest.raises(tl.DTypeError, match=f"got float64; cast with {words}"):
            call(value)


def test_wrong_indices_are_told_in_the_words_of_the_callers_library(embedding: Compiled) -> None:
    with pytest.raises(tl.DTypeError, match=r"cast with \.to\(torch\.int64\) once"):
        embedding(torch.zeros(3, 10))
    with pytest.raises(tl.DTypeError, match=r"cast with np\.asarray\(x, 'int64'\) once"):
        embedding([[0.5] * 10])
    with pytest.raises(tl.ShapeError, match=r"pass \.contiguous\(\)"):
        embedding.bind(torch.from_numpy(np.asfortranarray(IDS)))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_a_nested_tensor_is_refused_alike_at_every_call(scale: Compiled, layout: Any) -> None:
    rows = [torch.ones(2, 3), torch.ones(1, 3)]
    nested = torch.nested.nested_tensor(rows, layout=layout)
    dense = tl.Dense(2, input_dim=3)
    messages = set()
    for call in (scale, scale.bind, dense, tl.Sequential([tl.Dense(2)])):
        for _ in range(2):
            with pytest.raises(tl.DTypeError, match="nested torch tensor") as found:
                call(nested)
            messages.add(str(found.value).partition("is a nested")[2])
            scale(torch.ones(1, 3))  # teaches the short way of plain tensors
    assert len(messages) == 1


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_a_number_among_several_inputs_is_refused_alike(bag: Compiled, kind: Any) -> None:
    for _ in range(2):
        with pytest.raises(tl.ShapeError, match="'indices' expected 1 axes"):
            bag(kind(1), kind([0]))
        bag(kind([1]), kind([0]))


def test_weights_with_a_pending_sign_are_taken() -> None:
    negative = torch.complex(torch.zeros(5, 4), torch.from_numpy(TABLE)).conj().imag
    assert negative.is_neg()
    layer = tl.Embedding(5, 4, weights=negative)
    np.testing.assert_array_equal(layer.get_weights()[0], -TABLE)
