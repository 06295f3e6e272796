"""Exported steps, ready to go on."""

from __future__ import annotations

import os

from tvmlayers.artifact import file as artifact
from tvmlayers.artifact.manifest import STEP_FORMAT
from tvmlayers.errors import ArtifactError
from tvmlayers.layers.serialize import model_from_config
from tvmlayers.runtime.threads import load_library
from tvmlayers.training.step import SYMBOL, TrainingStep


def load_step(path: str | os.PathLike[str], threads: int | None = None) -> TrainingStep:
    """The step that `TrainingStep.export` wrote to `path`, where it was: ready for the next call.

    threads: as for `compile`. ArtifactError for a damaged or foreign file, and TargetError where
    this machine lacks CPU features that the code uses. Its model has the weights as they were.
    """
    manifest, library, arena = artifact.read(path, form=STEP_FORMAT)
    model = model_from_config(manifest["model"]).ready()
    takes = [(tensor.name, list(tensor.dims)) for tensor in model.graph.inputs]
    if takes != [(row["name"], row["shape"]) for row in manifest["inputs"]]:
        raise ArtifactError(f"the manifest of {path} is damaged: its inputs are not its model's")
    function = load_library(library).get_function(SYMBOL)
    step = TrainingStep(model, manifest, function, arena, threads, lambda: library)
    step.update_model()
    return step
