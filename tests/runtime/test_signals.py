"""What a signal handler raises during a call reaches the caller of the model, whatever it is."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from handmade import IDS, bag_manifest, embedding_manifest, scale_manifest

import tvmlayers as tl
from tvmlayers.foreign import is_interruption, is_refusal
from tvmlayers.runtime import ffi
from tvmlayers.runtime.compiled import Compiled

torch = pytest.importorskip("torch")


class OwnTimeout(Exception):
    pass


class OwnRuntimeError(RuntimeError):
    pass


CLASSES = [
    OwnTimeout,
    OwnRuntimeError,
    TimeoutError,
    RuntimeError,
    ValueError,
    KeyError,
    MemoryError,
]


@pytest.fixture(params=CLASSES)
def raised(request: pytest.FixtureRequest) -> Iterator[type[Exception]]:
    """The class of what a handler of SIGUSR1 raises."""

    def handler(number: int, frame: object) -> None:
        raise request.param("time is up")

    before = signal.signal(signal.SIGUSR1, handler)
    yield request.param
    signal.signal(signal.SIGUSR1, before)


def interrupted(manifest: dict[str, Any]) -> tuple[Compiled, list[int]]:
    """A model during each of whose calls a signal comes, and the calls that were made."""
    calls: list[int] = []

    def function(*_: Any) -> int:
        calls.append(len(calls))
        signal.raise_signal(signal.SIGUSR1)
        return 0

    return Compiled(manifest, lambda _: function, np.zeros(1024, np.uint8), threads=1), calls


def ways(kind: Callable[[np.ndarray], Any]) -> list[tuple[dict[str, Any], Callable[[Any], Any]]]:
    """Manifests, and a call of each: one input, several, by name, with `out`, bound."""
    ids, row, offsets = kind(IDS.copy()), kind(IDS[0].copy()), kind(np.array([0, 2]))
    out = kind(np.empty((3, 10, 4), np.float32))
    x = kind(np.ones((2, 3), np.float32))
    return [
        (embedding_manifest(), lambda model: model(ids)),
        (embedding_manifest(), lambda model: model(ids=ids)),
        (embedding_manifest(), lambda model: model(ids, out=out)),
        (embedding_manifest(), lambda model: model.bind(ids)),
        (bag_manifest(), lambda model: model(row, offsets)),
        (bag_manifest(), lambda model: model(offsets=offsets, indices=row)),
        (scale_manifest(), lambda model: model(x)),
    ]


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, ffi.from_array])
@pytest.mark.parametrize("way", range(7))
def test_it_reaches_the_caller_and_no_call_is_made_again(
    raised: type[Exception], kind: Any, way: int
) -> None:
    manifest, call = ways(kind)[way]
    model, calls = interrupted(manifest)
    for turn in (1, 2, 3):  # the short ways are learned from the first
        with pytest.raises(raised, match="time is up") as found:
            call(model)
        assert type(found.value) is raised
        assert len(calls) == turn


class Interrupting:
    """A tensor that a signal comes in the midst of the reading of."""

    def __dlpack__(self, **_: Any) -> Any:
        signal.raise_signal(signal.SIGUSR1)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class InterruptingArray:
    def __array__(self, *_: Any, **__: Any) -> Any:
        signal.raise_signal(signal.SIGUSR1)


@pytest.mark.parametrize("value", [Interrupting(), InterruptingArray(), [InterruptingArray()]])
def test_it_reaches_the_caller_where_an_input_is_read(
    embedding: Compiled, raised: type[Exception], value: Any
) -> None:
    for call in (embedding, embedding.bind, tl.Embedding(5, 4)):
        with pytest.raises(raised, match="time is up") as found:
            call(value)
        assert type(found.value) is raised
    with pytest.raises(raised, match="time is up"):
        tl.Embedding(5, 4, weights=value)


def test_a_tensor_that_refuses_is_told_from_one_that_fails(embedding: Compiled) -> None:
    class Refusing(Interrupting):
        def __dlpack__(self, **_: Any) -> Any:
            raise BufferError("not this one")

    class Failing(Interrupting):
        def __dlpack__(self, **_: Any) -> Any:
            raise OwnRuntimeError("out of order")

    with pytest.raises(tl.DTypeError, match="cannot be read through DLPack: not this one"):
        embedding(Refusing())
    with pytest.raises(OwnRuntimeError, match="out of order"):
        embedding(Failing())


def test_memory_that_there_is_none_of_is_a_memory_error(embedding: Compiled) -> None:
    def function(*_: Any) -> int:
        raise MemoryError("no room")

    model = Compiled(embedding_manifest(), lambda _: function, np.zeros(1024, np.uint8), threads=1)
    for _ in range(2):
        with pytest.raises(MemoryError, match="no room"):
            model(IDS)


class Handler:
    def raising(self, number: int, frame: object) -> None:
        raise RuntimeError("here")

    def __call__(self, number: int, frame: object) -> None:
        self.raising(number, frame)


@pytest.mark.parametrize(
    "handler", [Handler(), Handler().raising, functools.partial(Handler.raising, None)]
)
def test_handlers_of_every_kind_are_known(handler: Any) -> None:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(RuntimeError, match="here") as found:
            signal.raise_signal(signal.SIGUSR1)
        assert is_interruption(found.value)
        assert not is_refusal(found.value)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_refusal_of_compiled_code_is_one(embedding: Compiled) -> None:
    entry = embedding._entries[0]
    with pytest.raises(Exception, match="Mismatch") as found:
        entry.function(np.zeros(3, np.int32), np.zeros(3, np.float32), embedding._arena_tensor, 1)
    assert is_refusal(found.value)
