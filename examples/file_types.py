"""What kind of file bytes are: magika's network, its convolution as a Dense over windows.

`python -m examples.file_types` after `pip install '.[examples]'`. The network comes with the
package magika as an ONNX file; the files are the sources of NumPy. It looks up 2048 bytes,
normalises over positions, convolves 5 neighbours, takes the largest of each feature, and
classifies. `tl.from_onnx` does not read it: no layer here is a convolution, or normalises over a
middle axis. But a convolution is a Dense over a window that slides: three compiled models compute
all of it, and between them NumPy moves axes and copies windows.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import magika
import numpy as np
import onnx
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

import tvmlayers as tl
from examples.side_by_side import Side, print_table

PADDING, EDGE, FILES = 256, 1024, 48  # of magika: a byte that is none, bytes of either end
EPSILON = 1e-6
Array = NDArray[Any]


def network() -> Path:
    """The newest of the package's networks."""
    return max((Path(magika.__file__).parent / "models").glob("standard_*/model.onnx"))


class Magika:
    """The network: ids (batch, 2048) int32 to probabilities (batch, kinds)."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        weights = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        inputs = {node.name: node.input[1] for node in graph.node if len(node.input) > 1}

        def of(layer: str) -> Array:
            """The weight of a node, by the end of its name."""
            (found,) = (name for name in inputs if name.endswith(layer))
            return np.asarray(weights[inputs[found]])

        kernel, offset = of("Conv_0/Conv2D"), of("Conv_0/AddV2").reshape(-1)
        filters, channels, self.taps, _ = kernel.shape
        table = gelu(of("Dense_0/einsum/Einsum") + of("Dense_0/AddV2").reshape(-1))
        steps = 2 * EDGE * table.shape[1] // channels
        # The product of a one-hot vector and a matrix is a row; its gelu, one of another table.
        ids = tl.Input((2 * EDGE,), dtype="int32")
        rows = tl.Reshape((steps, channels))(tl.Embedding(*table.shape)(ids))
        self.look_up = compiled(ids, rows, table)
        x = tl.Input((channels, steps))
        self.normalise = compiled(x, tl.LayerNormalization(epsilon=EPSILON)(x), *norm(of, 0))
        x = tl.Input((steps - self.taps + 1, channels * self.taps))
        y = tl.GlobalMaxPooling1D()(tl.Dense(filters, "gelu_tanh")(x))
        y = tl.LayerNormalization(epsilon=EPSILON)(y)
        head, bias = of("Dense_1/MatMul"), of("Dense_1/AddV2").reshape(-1)
        flat = kernel.reshape(filters, channels * self.taps).T
        y = tl.Dense(len(bias), "softmax")(y)
        self.classify = compiled(x, y, flat, offset, *norm(of, 1), head, bias)

    def __call__(self, ids: Array) -> Array:
        rows = np.ascontiguousarray(self.look_up(ids).transpose(0, 2, 1))
        windows = sliding_window_view(self.normalise(rows), self.taps, axis=2)
        batch, channels, steps, taps = windows.shape
        flat = windows.transpose(0, 2, 1, 3).reshape(batch, steps, channels * taps)
        return np.asarray(self.classify(flat))


def norm(of: Any, number: int) -> tuple[Array, Array]:
    """(gamma, beta) of a LayerNorm of the network."""
    layer = f"MagikaV2/LayerNorm_{number}"
    return of(f"{layer}/Mul").reshape(-1), of(f"{layer}/AddV2_1").reshape(-1)


def compiled(inputs: Any, outputs: Any, *weights: Array) -> Any:
    """The compiled model of these weights."""
    model = tl.Model(inputs, outputs)
    model.set_weights(weights)
    return tl.compile(model)


def gelu(x: Array) -> Array:
    """By tanh, as the network has it."""
    return np.asarray(x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def ids_of(path: Path) -> Array:
    """The first and last bytes of a file, filled up in the middle."""
    data = np.frombuffer(path.read_bytes().strip(), np.uint8)
    ids = np.full(2 * EDGE, PADDING, np.int32)
    first, last = data[:EDGE], data[-EDGE:]
    ids[: len(first)], ids[2 * EDGE - len(last) :] = first, last
    return ids


def main() -> int:
    """Compare and time; the exit status is 1 where answers differ."""
    path = network()
    ours = Magika(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def original(ids: Array) -> Array:
        return np.asarray(session.run(None, {"bytes": ids})[0])

    files = sorted(Path(np.__file__).parents[1].joinpath("numpy").rglob("*.py"))[:FILES]
    ids = np.stack([ids_of(file) for file in files])
    found, expected = ours(ids), original(ids)
    same = int((found.argmax(1) == expected.argmax(1)).sum())
    off = float(np.abs(found - expected).max())
    print(f"{same} of {len(files)} answers are magika's, probabilities differ by {off:.1e}")
    rows = []
    for batch in (1, 32):  # windows of more take much memory
        some = ids[:batch]
        sides = [
            Side("tvmlayers", lambda some=some: ours(some)),
            Side("onnxruntime", lambda some=some: original(some)),
        ]
        rows.append((f"batch {batch}", sides))
    print_table(rows)
    return 0 if same == len(files) and off < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
