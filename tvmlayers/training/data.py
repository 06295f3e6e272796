"""What models are trained on, as batches: arrays, datasets and loaders of PyTorch, iterables.

A source gives the batches of an epoch, `source.epoch(number)`. The order of a shuffled epoch
follows from the seed and the number of the epoch alone, so that a run can go on in the middle.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tvmlayers.errors import ConfigError, DTypeError, ShapeError
from tvmlayers.layers import Model
from tvmlayers.numeric import positive, real
from tvmlayers.runtime.signature import Slot
from tvmlayers.runtime.tensors import import_array, type_list
from tvmlayers.training.outputs import output_names, parts_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Inputs and truths in the model's order, and sample weights; None for what was not given.

    Each has one row a sample.
    """

    x: tuple[Array, ...]
    y: tuple[Array, ...] | None = None
    sample_weight: Array | None = None

    def __len__(self) -> int:
        return len(self.x[0])

    @property
    def inputs(self) -> Any:
        """x as a step takes it."""
        return self.x[0] if len(self.x) == 1 else self.x

    def rows(self, chosen: Any) -> Batch:
        """Those samples only."""
        y, weight = self.y, self.sample_weight
        return Batch(
            tuple(array[chosen] for array in self.x),
            None if y is None else tuple(array[chosen] for array in y),
            None if weight is None else weight[chosen],
        )


class Source(Protocol):
    """Where batches come from. batches: how many an epoch has; None where that is not known."""

    @property
    def batches(self) -> int | None: ...

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of that epoch, the first one 0. UserWarning where data ends too early."""
        ...


class Reader:
    """Turns what users give into batches for a model; builds a Sequential that waits for a shape.

    class_weight: how much a sample of each class counts; 1 for classes that are not in it.
    """

    def __init__(self, model: Model, class_weight: Mapping[int, float] | None = None) -> None:
        if class_weight is not None and not isinstance(class_weight, Mapping):
            raise ConfigError(
                f"class_weight expected a dict of classes, got {type(class_weight).__name__}"
            )
        self._model, self._class_weight, self._is_ready = model, class_weight, False

    def batch(self, x: Any, y: Any = None, sample_weight: Any = None) -> Batch:
        """ShapeError where they have different lengths, DTypeError for what are no numbers."""
        inputs = self._inputs(x)
        names = output_names(self._model)
        truths = None if y is None else [_numbers(each, "y") for each in parts_of(y, names)]
        weight = None if sample_weight is None else _numbers(sample_weight, "sample_weight")
        lengths = [("y", array) for array in truths or []]
        lengths += [] if weight is None else [("sample_weight", weight)]
        for name, array in lengths:
            if len(array) != len(inputs[0]):
                raise ShapeError(
                    f"{name} has {len(array)} samples and x has {len(inputs[0])}: give both alike"
                )
        if self._class_weight is not None:
            if weight is not None:
                raise ConfigError("give class_weight or sample_weight, not both")
            if len(names) > 1:
                raise ConfigError(
                    f"class_weight is for models of one output, got {names}: give sample_weight"
                )
            if truths is not None:
                weight = _weights_of(truths[0], self._class_weight)
        return Batch(inputs, None if truths is None else tuple(truths), weight)

    def item(self, item: Any) -> Batch:
        """A batch of an iterable: x, (x, y) or (x, y, sample_weight)."""
        if isinstance(item, (tuple, list)) and 1 <= len(item) <= 3:
            return self.batch(*item)
        if isinstance(item, (tuple, list)):
            raise ConfigError(
                "a batch of an iterable is (x, y) or (x, y, sample_weight), got "
                f"{len(item)} things; several inputs come as a tuple or a dict in place of x"
            )
        return self.batch(item)

    def _inputs(self, x: Any) -> tuple[Array, ...]:
        names = [each.name for each in self._model.inputs] if self._model.is_built else ["x"]
        pairs = [(name, *import_array(value, name)) for name, value in _by_name(x, names)]
        for name, array, _ in pairs:
            if array.ndim == 0:
                raise ShapeError(f"input {name!r} expected one row a sample, got a single value")
            if len(array) != len(pairs[0][1]):
                raise ShapeError(
                    f"input {name!r} has {len(array)} samples and input {names[0]!r} has "
                    f"{len(pairs[0][1])}: give all alike"
                )
        if not self._is_ready:
            self._model.ready([array.shape for _, array, _ in pairs])
            self._is_ready = True
        dtypes = [np.dtype(each.dtype) for each in self._model.inputs]
        return tuple(
            type_list(array, Slot(name, array.shape, dtype))
            if kind is None
            else _as_numbers(array, dtype)
            for (name, array, kind), dtype in zip(pairs, dtypes, strict=True)
        )


def _by_name(x: Any, names: Sequence[str]) -> list[tuple[str, Any]]:
    if isinstance(x, Mapping):
        if sorted(x) != sorted(names):
            raise ConfigError(f"this model takes the inputs {list(names)}, got {sorted(x)}")
        return [(name, x[name]) for name in names]
    is_list = isinstance(x, (list, tuple))
    if len(names) == 1:
        is_single = is_list and len(x) == 1 and hasattr(x[0], "shape") and len(x[0].shape) > 1
        return [(names[0], x[0] if is_single else x)]
    if not is_list or len(x) != len(names):
        got = len(x) if is_list else type(x).__name__
        raise ConfigError(
            f"this model takes the inputs {list(names)}, got {got}: pass a list or a dict"
        )
    return list(zip(names, x, strict=True))


def _as_numbers(array: Array, dtype: np.dtype[Any]) -> Array:
    """Numbers of any dtype in the one that the model computes in, as Keras takes them; indices and
    what are no numbers are left for the model to check."""
    is_cast = dtype.kind == "f" and array.dtype.kind in "fiub"
    return array.astype(dtype, copy=False) if is_cast else array


def _numbers(value: Any, name: str) -> Array:
    array, _ = import_array(value, name)
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"{name} expected numbers, got {array.dtype}")
    if array.ndim == 0:
        raise ShapeError(f"{name} expected one row a sample, got a single value")
    return array


def _weights_of(y: Array, class_weight: Mapping[int, float]) -> Array:
    """What each sample counts: its class is its number, or the largest of its row."""
    if y.ndim > 1:
        y = y.argmax(axis=-1) if y.shape[-1] != 1 else y[..., 0]
    classes, places = np.unique(np.round(y).astype(np.int64), return_inverse=True)
    weights = np.array([class_weight.get(int(each), 1.0) for each in classes], np.float32)
    made: Array = weights[places.reshape(-1)]
    return made


def _order(size: int, number: int, seed: int | None) -> Array:
    """The order of the samples in an epoch: as they come where there is no seed."""
    if seed is None:
        return np.arange(size)
    return np.random.default_rng([seed, number]).permutation(size)


class Indexed:
    """Samples that are taken by their places, shuffled where there is a seed.

    take: makes the batch of an array of places. whole: all samples, where they are arrays.
    """

    def __init__(
        self,
        size: int,
        take: Callable[[Array], Batch],
        batch_size: int | None = None,
        whole: Batch | None = None,
    ) -> None:
        if size < 1:
            raise ShapeError("expected at least one sample, got 0")
        self.size, self.take, self.whole = size, take, whole
        self.batch_size = 32 if batch_size is None else batch_size
        self.seed: int | None = None

    @property
    def batches(self) -> int:
        return math.ceil(self.size / self.batch_size)

    def epoch(self, number: int, begin: int = 0) -> Iterator[Batch]:
        order = _order(self.size, number, self.seed)
        for start in range(begin * self.batch_size, self.size, self.batch_size):
            yield self.take(order[start : start + self.batch_size])


class Stream:
    """An iterable of batches, gone through once for each epoch."""

    batches: int | None

    def __init__(self, iterable: Iterable[Any], reader: Reader) -> None:
        self._iterable, self._reader = iterable, reader
        self.passes_once = iter(iterable) is iterable
        self.batches = None if self.passes_once else _length(iterable)

    def epoch(self, number: int) -> Iterator[Batch]:
        return map(self._reader.item, self._iterable)


class Steps:
    """`steps` batches an epoch of a source that has more or fewer: it begins anew where it ends."""

    def __init__(self, source: Source, steps: int) -> None:
        self._source, self.batches = source, positive("fit", "steps_per_epoch", steps)
        self._stream: Iterator[Batch] | None = None

    def epoch(self, number: int) -> Iterator[Batch]:
        if isinstance(self._source, Indexed):
            # Without a state, as a run may begin with any epoch.
            passed, begin = divmod(number * self.batches, self._source.batches)
            return islice(self._endless(self._source, passed, begin), self.batches)
        if self._stream is None:
            self._stream = self._again(self._source)
        return self._counted(self._stream)

    def _counted(self, stream: Iterator[Batch]) -> Iterator[Batch]:
        found = 0
        for batch in islice(stream, self.batches):
            found += 1
            yield batch
        if found < self.batches:
            warnings.warn(
                f"the data ended after {found} of the {self.batches} batches of an epoch: "
                "training stops",
                stacklevel=2,
            )

    @staticmethod
    def _endless(source: Indexed, passed: int, begin: int) -> Iterator[Batch]:
        while True:
            yield from source.epoch(passed, begin)
            passed, begin = passed + 1, 0

    @staticmethod
    def _again(source: Source) -> Iterator[Batch]:
        number, found = 0, True
        while found:
            found = False
            for batch in source.epoch(number):
                found = True
                yield batch
            number += 1


def source_of(
    reader: Reader,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
) -> Source:
    """The source that users mean by x, y and sample_weight, not shuffled.

    batch_size: 32 where it is left out; iterables make their own batches.
    """
    size = 32 if batch_size is None else positive("a model", "batch_size", batch_size)
    utils: Any = getattr(sys.modules.get("torch"), "utils", None)
    is_dataset = utils is not None and isinstance(x, utils.data.Dataset)
    is_iterable = not _is_arrays(x, y) and (is_dataset or isinstance(x, Iterable))
    if not is_iterable:
        return indexed(reader.batch(x, y, sample_weight), size)
    if y is not None or sample_weight is not None:
        raise ConfigError(
            f"x is a {type(x).__name__}, which gives y and sample_weight itself: leave them out"
        )
    if not is_dataset:
        return Stream(x, reader)
    if isinstance(x, utils.data.IterableDataset):
        return Stream(_Grouped(x, size), reader)

    def take(places: Array) -> Batch:
        return reader.item(_stacked([x[int(place)] for place in places]))

    return Indexed(len(x), take, size)


def split(source: Source, fraction: float) -> tuple[Batch, Batch]:
    """What is trained on and the last `fraction` of the samples, as they came."""
    share = real("fit", "validation_split", fraction)
    if not isinstance(source, Indexed):
        raise ConfigError("validation_split takes arrays: give validation_data beside an iterable")
    first = math.floor(source.size * (1 - share))
    if not 0 < share < 1 or first in (0, source.size):
        raise ConfigError(
            f"validation_split={fraction} leaves no sample on one side of {source.size}"
        )
    places = np.arange(source.size)
    return source.take(places[:first]), source.take(places[first:])


def indexed(batch: Batch, batch_size: int | None) -> Indexed:
    """Batches of a large one."""
    return Indexed(len(batch), batch.rows, batch_size, batch)


class _Grouped:
    """The samples of an iterable dataset, so many in a batch."""

    def __init__(self, samples: Iterable[Any], size: int) -> None:
        self._samples, self._size = samples, size

    def __iter__(self) -> Iterator[Any]:
        samples = iter(self._samples)
        while some := list(islice(samples, self._size)):
            yield _stacked(some)


def _stacked(samples: list[Any]) -> Any:
    """Samples as a batch: tuples and dicts of arrays keep their form."""
    first = samples[0]
    if isinstance(first, Mapping):
        return {key: _stacked([sample[key] for sample in samples]) for key in first}
    if isinstance(first, (tuple, list)):
        return tuple(_stacked(list(parts)) for parts in zip(*samples, strict=True))
    return np.stack([import_array(sample, "x")[0] for sample in samples])


def _is_arrays(x: Any, y: Any) -> bool:
    """Whether x is tensors, and not something that gives batches."""
    if hasattr(x, "__dlpack__") or hasattr(x, "__array__") or isinstance(x, Mapping):
        return True
    if not isinstance(x, (list, tuple)):
        return False
    are_batches = bool(x) and all(map(_is_pair, x))
    return y is not None or not are_batches


def _is_pair(item: Any) -> bool:
    """Whether an item of a list is (x, y) or (x, y, sample_weight), and not a row of numbers."""
    if not isinstance(item, tuple) or len(item) not in (2, 3):
        return False
    several = isinstance(item[1], (list, tuple)) and all(hasattr(y, "shape") for y in item[1])
    return several or isinstance(item[1], Mapping) or hasattr(item[1], "shape")


def _length(iterable: Any) -> int | None:
    try:
        return len(iterable)
    except TypeError:
        return None
