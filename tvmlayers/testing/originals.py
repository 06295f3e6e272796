"""The model that an imported one came from, run beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvmlayers.artifact.weights import to_numpy
from tvmlayers.errors import ConfigError, ShapeError
from tvmlayers.runtime.signature import shape_text
from tvmlayers.testing.bounds import Array, Bounded

# Of float64 that a result may be off by, beside its own magnitude or 1.
_ROUNDINGS = 64


class Original:
    """The model of another framework that a compiled one is held against.

    A torch.nn.Module is run as a copy in float64, where its own rounding counts only in tails:
    PyTorch's gelu is x / 2 (1 + erf), which is off by roundings of x where the result is next to
    nothing. Anything else is run as it is, and may be off by as much as the compiled model.
    """

    def __init__(self, given: Any) -> None:
        """given: an nn.Module, an ExportedProgram, an ONNX model or its path, or a callable that
        takes the inputs in order and returns one array or several."""
        import torch

        self.name = type(given).__name__
        self.share = 1.0
        self._call: Callable[..., Any]
        if isinstance(given, torch.nn.Module) and not hasattr(given, "to_json"):  # Keras has that
            self.share = 0.0
            self._call = _torch_call(copy.deepcopy(given).eval().double(), torch.float64)
        elif isinstance(given, torch.export.ExportedProgram):
            self._call = _torch_call(given.module(), None)
        elif isinstance(given, (str, Path)) or hasattr(given, "SerializeToString"):
            self.name = "ONNX model"
            self._call = _onnx_call(given)
        elif callable(given):
            self._call = given
        else:
            raise ConfigError(
                "verify expected against= to be a torch.nn.Module, an ExportedProgram, an ONNX "
                "model or a callable such as estimator.predict_proba, got "
                f"{type(given).__name__}"
            )

    def values(self, inputs: Mapping[str, Array], wanted: Sequence[Bounded]) -> list[Bounded]:
        """The original's results, each with the bound that the reference has for it.

        wanted: what the reference gives for the same inputs. ShapeError when the original gives
        other shapes or another number of results.
        """
        import torch

        found = [_double(value) for value in _leaves(self._call(*inputs.values()))]
        shapes = [tuple(want.value.shape) for want in wanted]
        if [value.shape for value in found] != shapes:
            raise ShapeError(
                f"the original gives {_texts(value.shape for value in found)}, "
                f"the compiled model {_texts(shapes)}"
            )
        return [
            Bounded(torch.from_numpy(value), want.bound * (1 + self.share) + _rounding(value))
            for value, want in zip(found, wanted, strict=True)
        ]


def _torch_call(module: Any, dtype: Any) -> Callable[..., Any]:
    """dtype: of all floats that the module is given; None for that of its parameters."""
    import torch

    own = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
    floats = dtype or own

    def call(*arrays: Array) -> Any:
        given = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        with torch.no_grad():
            return module(*(t.to(floats or t.dtype) if t.is_floating_point() else t for t in given))

    return call


def _onnx_call(model: Any) -> Callable[..., Any]:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(model) if isinstance(model, Path) else model)
    names = evaluator.input_names

    def call(*arrays: Array) -> Any:
        if len(arrays) != len(names):
            raise ConfigError(
                f"the ONNX model takes {len(names)} inputs, the compiled model {len(arrays)}: pass "
                "against= a callable that adds what nothing uses"
            )
        with np.errstate(all="ignore"):  # it is NumPy, and overflows where it then picks another
            return evaluator.run(None, dict(zip(names, arrays, strict=True)))

    return call


def _rounding(value: Array) -> float:
    """What float64's roundings may amount to in a network with such results."""
    largest = np.abs(value[np.isfinite(value)]).max(initial=1.0)
    return _ROUNDINGS * float(np.finfo(np.float64).eps * largest)


def _leaves(results: Any) -> list[Any]:
    if isinstance(results, Mapping):
        results = list(results.values())
    if isinstance(results, (list, tuple)):
        return [leaf for result in results for leaf in _leaves(result)]
    return [results]


def _double(value: Any) -> Array:
    return np.array(to_numpy(value), dtype=np.float64)


def _texts(shapes: Any) -> str:
    return " and ".join(shape_text(list(shape)) for shape in shapes)
