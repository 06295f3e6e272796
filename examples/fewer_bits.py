"""What fewer bits change in trained models: accuracy, the largest error of an output, its bound.

`python -m examples.fewer_bits` after `pip install '.[demo]'`; `--table` prints Markdown. The models
and data are those of `examples.train`, trained by tvmlayers from one seed, with logits as outputs.
"error" is the largest change of a logit on the held-out samples, "bound / error" how many times
larger the bound in advance was for the logit that came nearest to its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

import tvmlayers as tl
from examples import train

SAMPLES = 256  # that the bound is held against
MOST_LOST = 0.002  # by the choice of bits: of the accuracy or the area under the curve
WAYS: tuple[tuple[str, dict[str, str]], ...] = (
    ("int8", {"weights": "int8"}),
    ("int8, x int8", {"weights": "int8", "activations": "int8"}),
    ("int4", {"weights": "int4"}),
)


def trained(task: train.Task) -> tl.Model:
    """The model of a task after training."""
    model = task.make(0)
    model.compile(tl.optimizers.Adam(task.rate), task.loss)
    model.fit(*task.seen, task.batch_size, task.epochs, verbose=0, seed=0)
    return model


def quantized(task: train.Task, model: tl.Model, way: dict[str, str], calibrate: Any) -> tl.Model:
    """The model with tables and kernels in these bits; with `calibrate`, in the fewest from int4 on
    that lose MOST_LOST at most on those inputs."""
    kinds = {layer.kind for layer in model.layers}
    given: dict[str, Any] = way if "Dense" in kinds else {}
    if kinds & {"Embedding", "EmbeddingBag"}:
        given = {**given, "tables": way["weights"]}
    if calibrate is None:
        return tl.quantize(model, **given)
    return tl.quantize(model, **given, calibrate=calibrate, metric=task.score, max_drop=MOST_LOST)


def measured(task: train.Task, model: tl.Model, small: tl.Model) -> tuple[float, float, float]:
    """(score, the largest change of a logit, the least bound over change) of fewer bits."""
    floats, compiled = tl.compile(model), tl.compile(small)
    held = tuple(task.held[0])
    logits = compiled(*held)
    first = tuple(each[:SAMPLES] for each in held)
    report = tl.verify(compiled, model, inputs=first if len(first) > 1 else first[0])
    assert report.ok, report
    share = max(row.share for row in report.rows if row.entry.endswith("float weights"))
    return task.score(logits), float(np.abs(logits - floats(*held)).max()), 1 / share


def main(arguments: Sequence[str] = ()) -> int:
    """Print a line for each model and way; exit status 1 where the choice of bits loses more than
    it may."""
    form = "| {} | {} | {} | {:.4f} | {:.4f} | {:.2g} | {:.0f} |"
    if "--table" not in arguments:
        form = "{}, {}, {}: {:.4f} with float weights, {:.4f}; error {:.2g}, bound / error {:.0f}"
    held = True
    for make in train.TASKS:
        task = make()
        model = trained(task)
        inputs = tuple(task.held[0])
        whole = task.score(tl.compile(model)(*inputs))
        has_kernels = any(isinstance(layer, tl.Dense) for layer in model.layers)
        for name, way in WAYS:
            if "activations" in way and not has_kernels:
                continue
            score, error, ratio = measured(task, model, quantized(task, model, way, None))
            print(
                form.format(task.name, name, task.measure, whole, score, error, ratio), flush=True
            )
        calibrate = inputs if len(inputs) > 1 else inputs[0]
        chosen = quantized(task, model, {"weights": "int4"}, calibrate)
        score, error, ratio = measured(task, model, chosen)
        assert chosen.calibration is not None
        found = dict.fromkeys(each.kind for each in chosen.calibration.choices)
        kinds = f"chosen: {', '.join(found)}"
        print(form.format(task.name, kinds, task.measure, whole, score, error, ratio), flush=True)
        held &= score >= whole - MOST_LOST
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
