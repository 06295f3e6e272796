"""`python -m tests.networks [seeds]`: random networks, written by each exporter and read again.

A network has every layer and option that the exporter has an equivalent of, in random order and
with random sharing. What the other framework computes is held against our reference in float64, and
so is what an import of it computes. Exit status 1 at a difference, told with its seed.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tvmlayers as tl
from tvmlayers.layers.activations import NAMES

sys.path.insert(0, str(Path(__file__).parent / "interop"))

from all_layers import LENGTH, ROWS, agree, filled, samples, weights_of

STEPS = 9
# ONNX Runtime has no float64 kernels of these, and the reference evaluator rounds erf to float32.
NOT_IN_ONNX = ("gelu", "elu", "selu", "prelu", "mish", "softplus", "softsign", "gelu_tanh")


class Maker:
    """Draws a network. framework: whose equivalents it keeps to."""

    def __init__(self, seed: int, framework: str) -> None:
        self.draw, self.framework = random.Random(seed), framework
        # Keras on PyTorch rounds to float32 on the way.
        self.dtype = "float32" if framework == "keras" else "float64"
        self.layers: dict[Any, tl.Layer] = {}
        self.inputs: list[Any] = []

    def network(self) -> tl.Model:
        """A model of one to three outputs."""
        tensors = [self.source() for _ in range(self.draw.randint(1, 3))]
        for _ in range(STEPS):
            tensors.append(self.step(tensors))
        used = {id(t) for tensor in tensors if tensor.node for t in tensor.node.inputs}
        ends = [t for t in tensors if id(t) not in used]
        ends = [tl.Activation("tanh")(t) if t.node.layer.kind == "Dropout" else t for t in ends]
        return filled(self.inputs, ends, self.draw.randrange(100))

    def shared(self, make: Callable[[], tl.Layer], *key: Any) -> tl.Layer:
        """A new layer, or now and then one of this key that is there."""
        if key not in self.layers or self.draw.random() < 0.6:
            self.layers[key] = make()
        return self.layers[key]

    def input(self, *shape: int, dtype: str) -> Any:
        self.inputs.append(tl.Input(shape, dtype=dtype, name=f"x{len(self.inputs)}"))
        return self.inputs[-1]

    def source(self) -> Any:
        """Numbers, rows of a table, or a bag of them."""
        kind, width = self.draw.choice(["numbers", "steps", "rows", "bag"]), self.draw.randint(2, 7)
        if kind == "numbers":
            return tl.Dropout(0.2)(self.input(width, dtype=self.dtype))
        if kind == "steps":
            return tl.Dropout(0.2)(self.input(LENGTH, width, dtype=self.dtype))
        ids = self.input(LENGTH, dtype=self.draw.choice(["int32", "int64"]))
        if kind == "rows":
            masked = self.draw.random() < 0.4
            return self.shared(
                lambda: tl.Embedding(ROWS, width, mask_zero=masked, dtype=self.dtype),
                "rows",
                masked,
            )(ids)
        return self.bag(ids, width)

    def bag(self, ids: Any, width: int) -> Any:
        modes, padding = ["mean", "sum", "max", "min"], None
        if self.framework == "keras":
            modes = ["mean", "max"]
        elif self.draw.random() < 0.4:
            modes = ["mean", "sum"]
            padding = self.draw.randrange(ROWS) if self.draw.random() < 0.5 else None
        mode = self.draw.choice(modes)
        layer = tl.EmbeddingBag(ROWS, width, mode=mode, padding_idx=padding, dtype=self.dtype)
        weighs = self.framework != "keras" and mode in ("mean", "sum") and padding is None
        if weighs and self.draw.random() < 0.4:
            return layer(ids, per_sample_weights=self.input(LENGTH, dtype=self.dtype))
        return layer(ids)

    def step(self, tensors: Sequence[Any]) -> Any:
        """One more tensor, of some that are there."""
        x = self.draw.choice(tensors)
        alike = [t for t in tensors if t.shape == x.shape and t is not x]
        if alike and self.draw.random() < 0.4:
            return self.merged(x, self.draw.choice(alike))
        flat = [t for t in tensors if t.rank == 2]
        if len(flat) > 1 and self.draw.random() < 0.2:
            return tl.Concatenate()(self.draw.sample(flat, 2))
        kinds = [self.dense, self.activation, self.normal, self.rescaled, self.shaped]
        return self.draw.choice(kinds)(x)

    def merged(self, x: Any, y: Any) -> Any:
        kinds = [tl.Add, tl.Average, tl.Multiply, tl.Maximum, tl.Minimum, tl.Subtract]
        if self.draw.random() < 0.3:
            axes = self.draw.choice([1, 2]) if x.rank == 3 else 1
            return tl.Dot(axes, normalize=self.draw.random() < 0.5)([x, y])
        if self.framework == "keras" and (x.mask_of or y.mask_of):
            kinds = kinds[:2]  # with the others Keras regards masks
        return self.draw.choice(kinds)()([x, y])

    def dense(self, x: Any) -> Any:
        units, name = self.draw.randint(1, 7), self.function()
        bias = self.draw.random() < 0.7
        return self.shared(
            lambda: tl.Dense(units, name, use_bias=bias, dtype=self.dtype), "dense", x.shape[-1]
        )(x)

    def function(self) -> str:
        known = [name for name in NAMES if name not in ("linear", "exponential")]
        if self.framework == "onnx":
            known = [name for name in known if name not in NOT_IN_ONNX]
        if self.framework == "keras":
            known.remove("gelu_tanh")
        return self.draw.choice(known)

    def activation(self, x: Any) -> Any:
        kind = self.draw.choice(["named", "named", "leaky", "elu", "prelu"])
        if kind in ("elu", "prelu") and self.framework == "onnx":
            kind = "leaky"
        if kind == "leaky":
            return tl.LeakyReLU(self.draw.choice([0.0, 0.01, 0.3, 1.5]))(x)
        if kind == "elu":
            return tl.ELU(self.draw.choice([0.5, 1.0, 0.7]))(x)
        if kind == "prelu":
            shared = [1] if x.rank == 3 and self.draw.random() < 0.5 else None
            return tl.PReLU(shared_axes=shared, dtype=self.dtype)(x)
        return tl.Activation(self.function())(x)

    def normal(self, x: Any) -> Any:
        epsilon, center, scale = (
            10 ** -self.draw.randint(1, 5),
            *self.draw.choices([True, False], k=2),
        )
        options = {"center": center, "scale": scale, "dtype": self.dtype}
        return self.draw.choice(
            [
                lambda: tl.LayerNormalization(epsilon=epsilon, **options),
                lambda: tl.RMSNormalization(epsilon=epsilon, dtype=self.dtype),
                lambda: tl.BatchNormalization(epsilon=epsilon, **options),
                lambda: tl.UnitNormalization(),
            ]
        )()(x)

    def rescaled(self, x: Any) -> Any:
        scale: Any = self.draw.choice([0.5, 0.1, -1.0])
        if self.draw.random() < 0.4:
            scale = np.arange(1, x.shape[-1] + 1) / 4
        return tl.Rescaling(scale, self.draw.choice([0.0, 1.0, -0.3]))(x)

    def shaped(self, x: Any) -> Any:
        if x.rank == 3:
            pools = [tl.Flatten, tl.GlobalAveragePooling1D, tl.GlobalMaxPooling1D]
            if self.framework != "keras" and x.shape[1] > 1:
                pools.append(tl.DotInteraction)
            return self.draw.choice(pools)()(x)
        return tl.Reshape((1, x.shape[1]))(x)


def onnx_session(model: Path | bytes, *, optimised: bool = True) -> Any:
    """A session of ONNX Runtime, whether or not its process has a thread pool for all of them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except (RuntimeError, ValueError):
        options.use_per_session_threads = False
        return onnxruntime.InferenceSession(model, options, providers=providers)


def by_torch(model: tl.Model, inputs: tuple[Any, ...]) -> tuple[list[Any], tl.Model]:
    import torch

    module = model.to_torch()
    given = tuple(torch.from_numpy(each) for each in inputs)
    with torch.no_grad():
        made = module(*given)
    results = made if isinstance(made, tuple) else (made,)
    return [each.numpy() for each in results], tl.from_torch(module, given)


def by_onnx(model: tl.Model, inputs: tuple[Any, ...]) -> tuple[list[Any], tl.Model]:

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.onnx"
        model.to_onnx(path)
        session = onnx_session(path)
        again = tl.from_onnx(path)
    names = [tensor.name for tensor in model.inputs]
    return session.run(None, dict(zip(names, inputs, strict=True))), again


def by_keras(model: tl.Model, inputs: tuple[Any, ...]) -> tuple[list[Any], tl.Model]:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    written = model.to_keras()
    made = written(list(inputs) if len(inputs) > 1 else inputs[0])
    results = made if isinstance(made, (list, tuple)) else [made]
    return [keras.ops.convert_to_numpy(each) for each in results], tl.from_keras(written)


FRAMEWORKS = {"torch": by_torch, "onnx": by_onnx, "keras": by_keras}


def check(seed: int, framework: str) -> None:
    """AssertionError, or an error of the exporter or importer, unless all are equal."""
    model = Maker(seed, framework).network()
    inputs = samples(model, 5, seed)
    results, again = FRAMEWORKS[framework](model, inputs)
    agree(model, results, inputs, share=2.0)
    got, wanted = weights_of(again), weights_of(model)
    assert got == wanted, f"weights {sorted(got)} instead of {sorted(wanted)}"
    agree(again, results, inputs, share=2.0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.networks", description=__doc__)
    parser.add_argument("seeds", type=int, nargs="?", default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", choices=FRAMEWORKS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    failed = 0
    for framework in [given.only] if given.only else FRAMEWORKS:
        for seed in range(given.first, given.first + given.seeds):
            try:
                check(seed, framework)
            except ModuleNotFoundError as error:
                print(f"{framework}: skipped, {error}")
                break
            except Exception as error:  # any error is a finding: it is told, and counted
                failed += 1
                print(f"{framework}, seed {seed}: {type(error).__name__}: {str(error)[:600]}")
        else:
            print(f"{framework}: {given.seeds} networks")
    print(f"{failed} differ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
