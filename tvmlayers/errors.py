"""Every error that tvmlayers raises on purpose; each also is the builtin that users expect."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TvmLayersError(Exception):
    """Base of all errors of this library: `except tvmlayers.TvmLayersError` catches them all."""


class ShapeError(TvmLayersError, ValueError):
    """A tensor's rank or one of its axes is not what the layer takes."""


class DTypeError(TvmLayersError, TypeError):
    """A tensor's dtype is not one that the layer takes."""


class DeviceError(TvmLayersError, ValueError):
    """A tensor lives on a device that the compiled code cannot reach."""


class DeviceMemoryError(TvmLayersError, MemoryError):
    """A GPU has too little memory left for a model or for one of its calls."""


class HostMemoryError(TvmLayersError, MemoryError):
    """This process gets no more memory for a model's weights or for what its calls need."""


class IndexOutOfRangeError(TvmLayersError, IndexError):
    """An index is outside `0..input_dim-1`."""


class OffsetsError(TvmLayersError, ValueError):
    """Offsets of a bag decrease, do not begin at 0 or run past the indices."""


class WeightsError(TvmLayersError, ValueError):
    """Weights are missing, unexpected or of the wrong shape or dtype."""


class UnknownNameError(TvmLayersError, ValueError):
    """A name is not in its table."""


class TargetError(TvmLayersError, ValueError):
    """A target cannot be compiled for."""


class ArtifactError(TvmLayersError, ValueError):
    """A saved artefact is damaged, foreign or made for other hardware."""


class SaveError(TvmLayersError, OSError):
    """A file cannot be written: no room, no such folder, no permission. What was there stays."""

    def __str__(self) -> str:  # not "[Errno 28] ...", which OSError makes of errno and filename
        return str(self.args[0]) if self.args else ""


class MissingDependencyError(TvmLayersError, ImportError):
    """A package of an optional extra is not installed."""


class ConfigError(TvmLayersError, ValueError):
    """A layer or a model is described in a way that cannot be."""


class ModelImportError(TvmLayersError, ValueError):
    """A model of another framework is damaged, or has operations that no layer here computes."""


class ModelExportError(TvmLayersError, ValueError):
    """A model has parts that another framework does not compute."""


class GradientError(TvmLayersError, RuntimeError):
    """A gradient is asked for that compiled code does not have, such as that of a gradient."""


class RecordError(TvmLayersError, ValueError):
    """A record of a tuned decision is damaged, or cannot be written."""


class TuneError(TvmLayersError, RuntimeError):
    """Tuning cannot start, or cannot go on; what was measured so far is kept."""


class RecordWarning(UserWarning):
    """A record of a tuned decision is skipped, or a damaged file of them was moved aside."""


def unknown_name(kind: str, got: object, known: Iterable[str]) -> UnknownNameError:
    """An UnknownNameError that names the nearest known name and lists them all.

    kind: what the name is for, as "activation"; the caller raises what comes back.
    """
    names = sorted(known)
    nearest = get_close_matches(str(got).lower(), names, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UnknownNameError(f"unknown {kind} {got!r}.{hint} Known: {', '.join(names)}")


def only_on_cpus(layer: str, stored: str, target: str) -> DTypeError:
    """The error for weights in fewer bits, which only the kernels for CPUs read, and a GPU."""
    return DTypeError(
        f"{layer} keeps its weights as {stored}, which is compiled for CPU targets only so far, "
        f"not for {target}: compile the model with float weights, or for a CPU"
    )
