"""`compile_step`: from a model, a loss and an optimiser to a callable training step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tvmlayers import targets
from tvmlayers.codegen.cpu.losses import LABELS, loss_kernel
from tvmlayers.codegen.description import made_by
from tvmlayers.codegen.fuse import Step, fused_steps
from tvmlayers.codegen.modules import Modules
from tvmlayers.codegen.running import running
from tvmlayers.codegen.training.function import OutputSpec, StepSpec, step_function
from tvmlayers.codegen.training.parts import INDEX_DTYPE, part_of
from tvmlayers.codegen.training.tape import ITERATIONS, Backward, Tape, Value
from tvmlayers.codegen.training.target import selector_for
from tvmlayers.codegen.weights import Packed
from tvmlayers.dtypes import is_half
from tvmlayers.errors import ConfigError, DTypeError, TargetError
from tvmlayers.layers import Activation, Dense, Layer, Model, as_model
from tvmlayers.layers.graph import SymbolicTensor
from tvmlayers.layers.names import naming
from tvmlayers.training import losses, optimizers
from tvmlayers.training.outputs import losses_of, output_names, weights_of
from tvmlayers.training.step import SYMBOL, TrainingStep


def compile_step(
    model: Model | Layer,
    loss: object,
    optimizer: object = "sgd",
    *,
    tables: object = None,
    loss_weights: object = None,
    target: object = "native",
    threads: int | None = None,
    example: object = None,
) -> TrainingStep:
    """A compiled training step of `model`: `step(x, y, sample_weight=None) -> loss`.

    loss: an object of `tl.losses`, its name such as "sparse_categorical_crossentropy", or a
    function of two tensor expressions (y_true, y_pred). For a model of several outputs one that
    counts for each, or a list, or a dict by the names of the layers that give them; loss_weights:
    how much each counts, in the same form, 1 where nothing is said. optimizer: an object of
    `tl.optimizers` or its name; tables: that of the tables of `Embedding` and `EmbeddingBag`, where
    it is another. The step begins with the weights that the model has, and keeps its own:
    `step.weights()` reads them, `step.update_model()` puts them into the model. target, threads,
    example: as for `compile`; a step for another machine can be exported here, and not called.
    ConfigError for a layer without a derivative, and TargetError for a GPU.
    """
    built = as_model(model, example).ready()
    names, wanted = output_names(built), optimizers.get(optimizer)
    wanted_losses = losses_of(loss, names)
    weights = weights_of(loss_weights, names)
    for_tables = wanted if tables is None else optimizers.get(tables)
    resolved = targets.resolve(target)
    if isinstance(resolved, targets.CudaTarget):
        raise TargetError("steps are compiled for CPU targets only so far: train on a CPU")
    selector = selector_for(resolved)
    tape = Tape(selector, wanted, for_tables)
    with Modules(selector.target) as modules, naming:
        spec = _written(tape, built, list(zip(names, wanted_losses, weights, strict=True)))
        functions, checks = step_function(SYMBOL, spec)
        for run in tape.runs:
            functions |= run.what.functions
        library = modules.finish(functions)
    manifest = _manifest(built, tape, spec, checks, wanted_losses)
    get_function, linked = running(library, selector.target, "step", "export")
    return TrainingStep(built, manifest, get_function(SYMBOL), tape.arena.fill(), threads, linked)


def _written(
    tape: Tape, model: Model, wanted: Sequence[tuple[str, losses.Loss, float]]
) -> StepSpec:
    """The whole step on the tape. wanted: of each output its name, its loss and how it counts."""
    graph = model.graph
    _refuse_halves(graph)
    steps = fused_steps(graph, joins_merges=False)
    for output, (_, loss, _) in zip(graph.outputs, wanted, strict=True):
        _note_logits(tape, steps, output, loss)
    tape.keep(ITERATIONS, Packed((1,), "int64", lambda out: None), "state", (1,))
    values: dict[int, Value] = {}
    for tensor in graph.inputs:
        dtype = INDEX_DTYPE if tensor.dtype.startswith(("int", "uint")) else tensor.dtype
        values[id(tensor)] = Value(tensor.name, tensor.dims, dtype, given=True)
        tape.masks[id(tensor)] = values[id(tensor)]
    written: list[tuple[Step, Backward]] = []
    for step in steps:
        inputs = [values[id(tensor)] for tensor in step.inputs]
        made, backward = part_of(step)(tape, step, inputs)
        values[id(step.output)] = made
        written.append((step, backward))
    predictions = [values[id(output)] for output in graph.outputs]
    if not any(prediction.needs for prediction in predictions):
        raise ConfigError(
            "no layer of the model has weights to train: all are frozen, or none has any"
        )
    dtypes = sorted({prediction.dtype for prediction in predictions})
    if len(dtypes) > 1:
        raise DTypeError(f"a step takes outputs of one dtype, got {dtypes}: cast none of them")
    weight = Value("sample_weight", ("n",), dtypes[0])
    outputs, gradients = [], dict[int, list[Value]]()
    for output, prediction, each in zip(graph.outputs, predictions, wanted, strict=True):
        made_loss = _loss(tape, prediction, weight, *each, is_alone=len(wanted) == 1)
        activation = each[1].activation if id(output) in tape.logits else None
        outputs.append(replace(made_loss, activation=activation))
        gradients.setdefault(id(output), []).append(made_loss.gradient)
    for step, backward in reversed(written):
        own = gradients.get(id(step.output))
        if own is None or not values[id(step.output)].needs:
            continue
        for tensor, gradient in zip(step.inputs, backward(tape.sum(own)), strict=True):
            if gradient is not None and values[id(tensor)].needs:
                gradients.setdefault(id(tensor), []).append(gradient)
    tape.finish()
    return StepSpec(
        tape, [values[id(tensor)] for tensor in graph.inputs], outputs, weight, dtypes[0]
    )


def _loss(
    tape: Tape,
    prediction: Value,
    sample_weight: Value,
    name: str,
    loss: losses.Loss,
    counts: float,
    *,
    is_alone: bool,
) -> OutputSpec:
    """The loss of one output on the tape."""
    dims, dtype = prediction.dims, prediction.dtype
    if len(dims) != 2 or not isinstance(dims[1], int):
        raise ConfigError(
            f"{loss.kind} expected a model that gives (batch, outputs), got {prediction.dims}: "
            "end it with Flatten, a pooling or a Dense"
        )
    n = dims[1]
    label = "y" if is_alone else f"y[{name!r}]"
    truth = Value(label, ("n",) if loss.is_sparse else dims, LABELS if loss.is_sparse else dtype)
    numbers = Value("loss_numbers", (2,), dtype)
    rows = tape.value("loss", ("n",), dtype)
    gradient = tape.value("loss_gradient", dims, dtype, needs=True)
    kernel = loss_kernel(tape.name("loss"), loss, n, tape.target.lanes(dtype), dtype)
    tape.call(kernel, prediction, truth, sample_weight, numbers, gradient, rows)
    return OutputSpec(name, counts, truth, rows, numbers, prediction, gradient)


def _note_logits(
    tape: Tape, steps: Sequence[Step], output: SymbolicTensor, loss: losses.Loss
) -> None:
    """Leave out the last activation where the loss is computed without it; ConfigError where the
    model gives neither logits nor what the loss needs."""
    wanted = loss.activation
    if wanted is None or getattr(loss, "from_logits", False):
        return
    final: Any = next((step for step in steps if step.output is output), None)
    layer = None if final is None else final.layer
    if not isinstance(layer, Dense | Activation) or layer.activation != wanted:
        got = output.name if layer is None else layer.describe()
        raise ConfigError(
            f"{loss.kind} expected a model that ends with activation={wanted!r}, got {got}: add "
            f"it, or pass tl.losses.{loss.kind}(from_logits=True) for a model that gives logits"
        )
    if any(output is tensor for step in steps for tensor in step.inputs):
        raise ConfigError(
            f"{layer.describe()} gives an output, whose {loss.kind} is computed without its "
            f"{wanted}, and another layer reads it too: give that layer an Activation of its own, "
            f"and the output logits with tl.losses.{loss.kind}(from_logits=True)"
        )
    tape.logits.add(id(output))


def _refuse_halves(graph: Any) -> None:
    for tensor in (*graph.inputs, *(node.output for node in graph.nodes)):
        if is_half(tensor.dtype):
            raise DTypeError(
                f"{tensor.name!r} is {tensor.dtype}, and steps train float32 and float64 so far: "
                'make the layers with dtype="float32"'
            )


def _manifest(
    model: Model,
    tape: Tape,
    spec: StepSpec,
    checks: list[dict[str, Any]],
    wanted: Sequence[losses.Loss],
) -> dict[str, Any]:
    """What the step says of itself, JSON-able."""

    def slot(value: Value, kind: str) -> dict[str, Any]:
        return {
            "name": value.name,
            "shape": list(value.dims),
            "dtype": value.dtype,
            "kind": kind,
        }

    def output_of(output: OutputSpec, loss: losses.Loss) -> dict[str, Any]:
        earlier = tape.values[: tape.values.index(output.prediction.root)]
        return {
            "name": output.name,
            "truth": slot(output.truth, "label" if loss.is_sparse else "value"),
            "prediction": {
                **slot(output.prediction, "value"),
                "activation": output.activation,
                "behind": [[list(v.dims), np.dtype(v.dtype).itemsize] for v in earlier],
            },
        }

    inputs = [slot(v, "index" if v.dtype == INDEX_DTYPE else "value") for v in spec.inputs]
    return {
        **made_by(),
        "model": model.get_config(),
        "target": tape.target.describe(),
        "cpu_features": list(tape.target.cpu_flags),
        "inputs": inputs,
        "outputs": [output_of(*each) for each in zip(spec.outputs, wanted, strict=True)],
        "dtype": spec.dtype,
        "checks": checks,
        "weights": [
            {**row, "role": kept.role, "plain": list(kept.plain)}
            for row in tape.arena.manifest()
            for kept in [tape.kept[row["name"]]]
        ],
        "arena_bytes": tape.arena.arena_bytes,
        "iterations": ITERATIONS,
        "optimizer": tape.optimizer.get_config(),
        "tables": tape.tables.get_config(),
        "loss": ", ".join(dict.fromkeys(loss.kind for loss in wanted)),
    }
