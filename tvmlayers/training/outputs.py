"""What belongs to each output of a model: its name, its loss, its part of y, its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tvmlayers.errors import ConfigError, DTypeError
from tvmlayers.numeric import real
from tvmlayers.runtime import tensors
from tvmlayers.runtime.signature import Slot
from tvmlayers.training import losses
from tvmlayers.training.loss_values import class_numbers

if TYPE_CHECKING:
    from tvmlayers.layers import Model

Array = NDArray[Any]


def output_names(model: Model) -> list[str]:
    """The names of the layers that give the outputs; a name that comes again gets a number."""
    names: list[str] = []
    for tensor in model.graph.outputs:
        own = tensor.node.layer.name if tensor.node is not None else tensor.name
        taken = sum(name == own or name.startswith(f"{own}_again") for name in names)
        names.append(f"{own}_again{taken}" if taken else own)
    return names


def by_output(what: str, given: Any, names: Sequence[str], usual: Any = None) -> list[Any]:
    """What is given for each output, by a list in their order or a dict by name.

    usual: of outputs that a dict leaves out; ConfigError where there must be one for each.
    """
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in names]
        missing = [name for name in names if name not in given and usual is None]
        if unknown or missing:
            raise ConfigError(
                f"{what} expected the names of the model's outputs, {list(names)}, got "
                f"{list(given)}"
            )
        return [given.get(name, usual) for name in names]
    got = len(given) if isinstance(given, (list, tuple)) else type(given).__name__
    if got != len(names):
        raise ConfigError(
            f"{what} expected one for each output of the model, {list(names)}, as a list or a "
            f"dict by name, got {got}"
        )
    return list(given)


def losses_of(loss: object, names: Sequence[str]) -> list[losses.Loss]:
    """The loss of each output: one alone counts for all."""
    if isinstance(loss, (Mapping, list, tuple)):
        return [losses.get(each) for each in by_output("loss", loss, names)]
    return [losses.get(loss)] * len(names)


def weights_of(loss_weights: object, names: Sequence[str]) -> list[float]:
    """How much the loss of each output counts: 1 where nothing is said."""
    if loss_weights is None:
        return [1.0] * len(names)
    given = by_output("loss_weights", loss_weights, names, 1.0)
    return [real("loss_weights", f"that of {n!r}", w) for n, w in zip(names, given, strict=True)]


def parts_of(y: Any, names: Sequence[str]) -> list[Any]:
    """y for each output: as it is where there is but one."""
    is_alone = len(names) == 1 and not isinstance(y, Mapping)
    return [y] if is_alone else by_output("y", y, names)


def truth_array(y: Any, slot: Slot) -> Array:
    """y of one output, as its loss takes it."""
    array, _ = tensors.import_array(y, slot.name)
    if slot.kind != "label":
        if array.ndim == 1 and len(slot.shape) == 2 and slot.shape[1] == 1:
            array = array[:, None]
        return as_float(array, slot)
    return class_numbers(array)


def as_float(array: Array, slot: Slot) -> Array:
    """Numbers in the dtype of `slot`; DTypeError for what are none."""
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"{slot.name} expected numbers, got {array.dtype}")
    return array.astype(slot.dtype, copy=False)
