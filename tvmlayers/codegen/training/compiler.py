"""`compile_step`: from a model, a loss and an optimiser to a callable training step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tvmlayers import targets
from tvmlayers.codegen.cpu.losses import LABELS, loss_kernel
from tvmlayers.codegen.fuse import Step, fused_steps
from tvmlayers.codegen.modules import Modules
from tvmlayers.codegen.training.function import StepSpec, step_function
from tvmlayers.codegen.training.parts import INDEX_DTYPE, part_of
from tvmlayers.codegen.training.tape import ITERATIONS, Backward, Tape, Value
from tvmlayers.codegen.training.target import selector_for
from tvmlayers.codegen.weights import Packed
from tvmlayers.dtypes import is_half
from tvmlayers.errors import ConfigError, DTypeError, TargetError
from tvmlayers.layers import Activation, Dense, Layer, Model, as_model
from tvmlayers.layers.names import naming
from tvmlayers.training import losses, optimizers
from tvmlayers.training.step import TrainingStep

_SYMBOL = "step"


def compile_step(
    model: Model | Layer,
    loss: object,
    optimizer: object = "sgd",
    *,
    tables: object = None,
    target: object = "native",
    threads: int | None = None,
    example: object = None,
) -> TrainingStep:
    """A compiled training step of `model`: `step(x, y, sample_weight=None) -> loss`.

    loss: an object of `tl.losses`, its name such as "sparse_categorical_crossentropy", or a
    function of two tensor expressions (y_true, y_pred). optimizer: an object of `tl.optimizers` or
    its name; tables: that of the tables of `Embedding` and `EmbeddingBag`, where it is another.
    The step begins with the weights that the model has, and keeps its own: `step.weights()` reads
    them, `step.update_model()` puts them into the model. target, threads, example: as for
    `compile`. ConfigError for a layer without a derivative, and TargetError for a target whose
    code this machine cannot run.
    """
    built = as_model(model, example).ready()
    wanted_loss, wanted = losses.get(loss), optimizers.get(optimizer)
    for_tables = wanted if tables is None else optimizers.get(tables)
    resolved = targets.resolve(target)
    if isinstance(resolved, targets.CudaTarget):
        raise TargetError("steps are compiled for CPU targets only so far: train on a CPU")
    why_not = targets.obstacle(resolved.triple, resolved.cpu_flags)
    if why_not:
        raise TargetError(f"a step for {resolved.name} cannot run here: this machine {why_not}")
    selector = selector_for(resolved)
    tape = Tape(selector, wanted, for_tables)
    with Modules(selector.target) as modules, naming:
        spec = _written(tape, built, wanted_loss)
        functions, checks = step_function(_SYMBOL, spec)
        for run in tape.runs:
            functions |= run.what.functions
        library = modules.finish(functions)
    manifest = _manifest(built, tape, spec, checks, wanted_loss)
    return TrainingStep(built, manifest, library[_SYMBOL], tape.arena.fill(), threads)


def _written(tape: Tape, model: Model, loss: losses.Loss) -> StepSpec:
    """The whole step on the tape."""
    graph = model.graph
    if len(graph.outputs) != 1:
        raise ConfigError(f"a step takes a model of one output so far, got {len(graph.outputs)}")
    _refuse_halves(graph)
    (output,) = graph.outputs
    steps = fused_steps(graph, joins_merges=False)
    final = next(step for step in steps if step.output is output)
    _note_logits(tape, final, loss)
    tape.keep(ITERATIONS, Packed((1,), "int64", lambda out: None), "state", (1,))
    values: dict[int, Value] = {}
    is_logits = id(output) in tape.logits
    for tensor in graph.inputs:
        dtype = INDEX_DTYPE if tensor.dtype.startswith(("int", "uint")) else tensor.dtype
        values[id(tensor)] = Value(tensor.name, tensor.dims, dtype, given=True)
        tape.masks[id(tensor)] = values[id(tensor)]
    written: list[tuple[Step, list[Value], Backward]] = []
    for step in steps:
        inputs = [values[id(tensor)] for tensor in step.inputs]
        made, backward = part_of(step)(tape, step, inputs)
        values[id(step.output)] = made
        written.append((step, inputs, backward))
    prediction = values[id(output)]
    if not prediction.needs:
        raise ConfigError(
            "no layer of the model has weights to train: all are frozen, or none has any"
        )
    spec = _loss(tape, prediction, loss, [values[id(tensor)] for tensor in graph.inputs])
    spec = replace(spec, activation=loss.activation if is_logits else None)
    gradients: dict[int, list[Value]] = {id(output): [spec.gradient]}
    for step, _, backward in reversed(written):
        own = gradients.get(id(step.output))
        if own is None or not values[id(step.output)].needs:
            continue
        for tensor, gradient in zip(step.inputs, backward(tape.sum(own)), strict=True):
            if gradient is not None and values[id(tensor)].needs:
                gradients.setdefault(id(tensor), []).append(gradient)
    tape.finish()
    return spec


def _loss(tape: Tape, prediction: Value, loss: losses.Loss, inputs: list[Value]) -> StepSpec:
    """The loss on the tape."""
    dims, dtype = prediction.dims, prediction.dtype
    if len(dims) != 2 or not isinstance(dims[1], int):
        raise ConfigError(
            f"{loss.kind} expected a model that gives (batch, outputs), got {prediction.dims}: "
            "end it with Flatten, a pooling or a Dense"
        )
    n = dims[1]
    truth = Value("y", ("n",) if loss.is_sparse else dims, LABELS if loss.is_sparse else dtype)
    weight = Value("sample_weight", ("n",), dtype)
    numbers = Value("loss_numbers", (2,), dtype)
    rows = tape.value("loss", ("n",), dtype)
    gradient = tape.value("loss_gradient", dims, dtype, needs=True)
    kernel = loss_kernel(tape.name("loss"), loss, n, tape.target.lanes(dtype), dtype)
    tape.call(kernel, prediction, truth, weight, numbers, gradient, rows)
    return StepSpec(tape, inputs, truth, weight, rows, numbers, prediction, gradient, dtype)


def _note_logits(tape: Tape, final: Step, loss: losses.Loss) -> None:
    """Leave out the last activation where the loss is computed without it; ConfigError where the
    model gives neither logits nor what the loss needs."""
    wanted = loss.activation
    if wanted is None or getattr(loss, "from_logits", False):
        return
    layer: Any = final.layer
    if isinstance(layer, Dense | Activation) and layer.activation == wanted:
        tape.logits.add(id(final.output))
        return
    raise ConfigError(
        f"{loss.kind} expected a model that ends with activation={wanted!r}, got "
        f"{layer.describe()}: add it, or pass tl.losses.{loss.kind}(from_logits=True) for a model "
        "that gives logits"
    )


def _refuse_halves(graph: Any) -> None:
    for tensor in (*graph.inputs, *(node.output for node in graph.nodes)):
        if is_half(tensor.dtype):
            raise DTypeError(
                f"{tensor.name!r} is {tensor.dtype}, and steps train float32 and float64 so far: "
                'make the layers with dtype="float32"'
            )


def _manifest(
    model: Model, tape: Tape, spec: StepSpec, checks: list[dict[str, Any]], loss: losses.Loss
) -> dict[str, Any]:
    """What the step says of itself, JSON-able."""

    def slot(value: Value, kind: str) -> dict[str, Any]:
        return {
            "name": value.name,
            "shape": list(value.dims),
            "dtype": value.dtype,
            "kind": kind,
        }

    inputs = [slot(v, "index" if v.dtype == INDEX_DTYPE else "value") for v in spec.inputs]
    prediction = spec.prediction
    earlier = tape.values[: tape.values.index(prediction.root)]
    classes = next((check["classes"] for check in checks if check["kind"] == "label"), None)
    return {
        "model": model.get_config(),
        "target": tape.target.describe(),
        "inputs": inputs,
        "truth": {**slot(spec.truth, "label" if loss.is_sparse else "value"), "classes": classes},
        "prediction": {
            **slot(prediction, "value"),
            "activation": spec.activation,
            "behind": [[list(v.dims), np.dtype(v.dtype).itemsize] for v in earlier],
        },
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
        "loss": loss.kind,
    }
