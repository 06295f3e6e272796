"""An `ExportedProgram` of whatever the user has: a module, a program or a .pt2 file."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmlayers.errors import ConfigError, MissingDependencyError, ModelImportError
from tvmlayers.interop.torch.quantized import Fewer, float_modules

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.nn import Module

PLAIN_MEMBER = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    r"|models/[^/]+\.json|data/(weights|constants)/[^/]+_config\.json"
    r"|data/(weights/weight|constants/tensor)_\d+|data/sample_inputs/[^/]+\.pt)"
)
"""What a .pt2 archive of plain tensors holds. Compiled code and pickled objects are named else."""


def program_of(
    given: object, example: object, dynamic_shapes: object
) -> tuple[ExportedProgram, bool, Mapping[str, Fewer]]:
    """(functional program, whether it was exported here with its batch axis free, the weights that
    come in fewer bits)."""
    try:
        import torch
        from torch.export import ExportedProgram
    except ImportError as error:
        raise MissingDependencyError(
            "from_torch needs PyTorch, which is not installed: pip install 'tvmlayers[torch]'"
        ) from error
    if isinstance(given, (str, Path)):
        given = _load(Path(given))
    if isinstance(given, ExportedProgram):
        return _functional(given), False, {}
    if not isinstance(given, torch.nn.Module):
        raise ConfigError(
            "from_torch expected a torch.nn.Module, an ExportedProgram or the path of a .pt2 "
            f"file, got {type(given).__name__}"
        )
    with float_modules(given) as (module, fewer):
        args, kwargs = _arguments(_inferred(module) if example is None else example)
        if dynamic_shapes is None:
            collected = torch.export.ShapesCollection()
            for tensor in (*args, *kwargs.values()):
                # Of an example that nobody gave, no length is meant.
                axes = range(tensor.ndim) if example is None else (0,)
                collected[tensor] = dict.fromkeys(axes, torch.export.Dim.AUTO)
            dynamic_shapes = collected
        return _functional(_export(module, args, kwargs, dynamic_shapes)), True, fewer


def _export(
    module: Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], dynamic_shapes: object
) -> ExportedProgram:
    import torch

    with _in_eval_mode(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export about its own parts
        try:
            return torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes)
        except Exception as error:  # the user's forward runs in there, and may raise anything
            raise ModelImportError(
                f"torch.export cannot follow {type(module).__name__}.forward on this example: "
                f"{type(error).__name__}: {str(error).strip()}"
            ) from error


def _functional(program: ExportedProgram) -> ExportedProgram:
    """The program without in-place operators; nothing else is decomposed."""
    targets = [getattr(node.target, "_schema", None) for node in program.graph.nodes]
    if not any(schema is not None and schema.is_mutable for schema in targets):
        return program
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return program.run_decompositions({})


@contextmanager
def _in_eval_mode(module: Module) -> Iterator[None]:
    """The module in eval mode; each part is given back the mode that it had."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _arguments(example: object) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Positional and named tensors, with at least two samples each: 1 would count as fixed."""
    if isinstance(example, Mapping):
        return (), {str(name): _two_or_more(value) for name, value in example.items()}
    values = example if isinstance(example, tuple) else (example,)
    return tuple(_two_or_more(value) for value in values), {}


def _two_or_more(value: Any) -> Tensor:
    import numpy as np
    import torch

    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, torch.Tensor) or value.ndim == 0 or value.shape[0] == 0:
        raise ConfigError(
            "from_torch expected example= to be a tensor, a tuple of them or a mapping of "
            "forward's arguments, each with a batch of at least one sample, got "
            f"{tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__}"
        )
    # A copy each: of one tensor that stands for two inputs, torch.export makes one input.
    return torch.cat([value, value]) if value.shape[0] == 1 else value.clone()


def _inferred(module: Module) -> Tensor:
    """An example for a module whose first part says what it takes."""
    import torch
    from torch import nn

    first = module
    while isinstance(first, nn.Sequential) and len(first):
        first = first[0]
    if isinstance(first, nn.Linear):
        return torch.zeros(
            2, first.in_features, dtype=first.weight.dtype, device=first.weight.device
        )
    if isinstance(first, nn.EmbeddingBag):
        return torch.zeros(2, 3, dtype=torch.int64, device=first.weight.device)
    raise ConfigError(
        f"from_torch cannot tell what {type(module).__name__} takes: pass example=, a tensor as "
        "forward takes it, or a tuple of them"
    )


def _load(path: Path) -> ExportedProgram:
    """The program of a .pt2 file of plain tensors: PyTorch would unpickle anything else in it."""
    import torch

    if path.suffix != ".pt2":
        raise ConfigError(
            f"from_torch reads .pt2 files of torch.export.save, not {path.name}: a .pt or .pth "
            "file is a pickle, which can run code; load it yourself and pass the module"
        )
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(path)
    except Exception as error:  # the reader raises what its parsers raise
        raise ModelImportError(f"{path} is a damaged .pt2 file: {error}") from error


def _check_archive(path: Path) -> None:
    """ModelImportError unless every member is plain data."""
    import torch

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            strange = [name for name in names if not PLAIN_MEMBER.fullmatch(name)]
            if strange or len(set(names)) != len(names):
                raise ModelImportError(
                    f"{path} holds more than a program and its tensors: "
                    f"{', '.join(strange) or 'a member twice'}; export it again, or load it "
                    "yourself and pass the ExportedProgram"
                )
            for name in names:
                if name.endswith("_config.json"):
                    if _is_pickled(json.loads(archive.read(name))):
                        raise ModelImportError(
                            f"{path} holds pickled weights ({name}), which can run code; load "
                            "it yourself and pass the ExportedProgram"
                        )
                elif name.endswith(".pt"):
                    with archive.open(name) as member:
                        torch.load(member, weights_only=True, map_location="meta")
    except ModelImportError:
        raise
    except Exception as error:  # zip, JSON and torch each have their own
        raise ModelImportError(f"{path} is a damaged or unsafe .pt2 file: {error}") from error


def _is_pickled(config: Any) -> bool:
    return any(row.get("use_pickle") is not False for row in config["config"].values())
