"""A call whose buffers were chosen beforehand: what is left of it is the model's own work.

Checking inputs and making results takes as long as a small model runs. If you call repeatedly with
the same buffers, bind them once, as with ONNX Runtime's IOBinding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from tvmlayers.artifact.arena import address
from tvmlayers.errors import ConfigError, DTypeError, ShapeError
from tvmlayers.runtime.signature import Slot
from tvmlayers.runtime.tensors import Array, Kind, is_plain, packing


class BoundCall:
    """A model with the buffers of one call: `bound()` reads the inputs as they are then and gives
    the outputs, the same buffers each time.

    inputs, outputs: the buffers, inputs in the order of the model's signature. New values go into
    them, as by `ids[...] = new`. One call at a time: each thread binds buffers of its own.
    """

    __slots__ = ("__weakref__", "_fail", "_result", "_run", "inputs", "outputs")

    def __init__(
        self,
        run: Callable[[], int],
        fail: Callable[[int], object],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
    ) -> None:
        """run: fills the outputs; fail: raises for a status of it other than 0."""
        self._run, self._fail = run, fail
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._result = outputs[0] if len(outputs) == 1 else list(outputs)

    def __reduce__(self) -> NoReturn:
        raise ConfigError(
            "a bound call belongs to its buffers and can be neither copied nor pickled; "
            "copy the model, and bind the buffers that are wanted there"
        )

    def __call__(self) -> Any:
        """The outputs for what the inputs hold now, a list where there are several; raises what a
        call of the model does."""
        status = self._run()
        if status:
            self._fail(status)
        return self._result

    def follow(self, old: Any, new: Any) -> None:
        """Use one arena in the place of another, from the next call on."""
        run = self._run
        if isinstance(run, partial):
            arguments = [new if argument is old else argument for argument in run.args]
            self._run = partial(run.func, *arguments)


def refuse_copies(value: Any, seen: tuple[Array, Kind | None], slot: Slot) -> None:
    """DTypeError or ShapeError where compiled code could read only a copy of an input.

    seen: what `import_array` made of `value`, the input of `slot`.
    """
    array, kind = seen
    instead = "or call the model itself, which takes a copy"
    if kind is None:
        raise DTypeError(
            f"bind expected a tensor for input {slot.name!r}, to be read again at each call, got "
            f"{type(value).__name__}; pass np.asarray(...), {instead}"
        )
    if array.dtype != slot.dtype:
        raise DTypeError(
            f"bind reads input {slot.name!r} where it lies and expected {slot.dtype}, got "
            f"{array.dtype}; pass one of that dtype, {instead}"
        )
    is_copy = hasattr(value, "data_ptr") and array.size and value.data_ptr() != address(array)
    if is_copy or not is_plain(array):
        raise ShapeError(
            f"bind reads input {slot.name!r} where it lies and expected it packed in C order and "
            f"aligned, got strides {array.strides} for shape {array.shape}; pass "
            f"{packing(kind)}, {instead}"
        )
