"""The language of a source file: VS Code's detection, of an npm package, in our layers.

`python -m examples.languages [FOLDER]` after `pip install '.[examples]'`, beside Node.js. FOLDER
is where npm has put `@vscode/vscode-languagedetection`, otherwise `node_modules` of the working
folder; where it is not there, `npm pack` fetches it for the moment. The model is a graph of
TensorFlow.js: pairs of bytes, hashed into 5000 buckets, go into a mean of 70 numbers before three
dense layers (deep) and into a sum of 54 (wide), which are added. Its weights are bytes with a scale
for each tensor; here they are floats. The files are sources of installed packages. The original
runs in Node.js.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import tvmlayers as tl
from examples.side_by_side import Side, medians, print_table

PACKAGE = "@vscode/vscode-languagedetection"
BUCKETS, PAIRS, CHARACTERS = 5000, 10_000, 100_000  # of the model: more of a file is not looked at
SUFFIXES = (".c", ".cc", ".cpp", ".css", ".h", ".html", ".js", ".json", ".md", ".py", ".sh", ".ts")
OF_EACH, TIMED = 20, 30
SHORTEST = 20  # characters: of fewer the original says nothing
DEEP = "dnn/input_from_feature_columns/input_layer/content_embedding/embedding_"
WIDE = "linear/linear_model/content/"
LAYERS = ("hiddenlayer_0", "hiddenlayer_1", "logits")
K0, K2, WORD = 0xC3A5C85C97CB3127, 0x9AE16A3B2F90404F, 1 << 64  # of FarmHash
Array = NDArray[Any]

ORIGINAL = """
const [folder, rounds] = process.argv.slice(1);
const { ModelOperations } = require(folder);
const texts = JSON.parse(require("fs").readFileSync(0, "utf8"));
(async () => {
  const model = new ModelOperations();
  const answers = [];
  for (const text of texts) answers.push(await model.runModel(text));
  const begin = performance.now();
  for (let i = 0; i < rounds; i++) await model.runModel(texts[0]);
  const taken = (performance.now() - begin) / rounds * 1000;
  console.log(JSON.stringify({ answers, taken }));
})();
"""


def installed() -> Path | None:
    """The package, where npm has installed it into the working folder."""
    folder = Path("node_modules", PACKAGE).absolute()
    return folder if folder.is_dir() else None


def fetched(folder: str) -> Path:
    """The package, unpacked into a folder."""
    subprocess.run(
        ["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, capture_output=True
    )
    (archive,) = Path(folder).glob("*.tgz")
    subprocess.run(["tar", "xzf", archive.name], cwd=folder, check=True)
    return Path(folder, "package")


class Tensors:
    """The constants of a graph model of TensorFlow.js, by name."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "model.json").read_text())["weightsManifest"]
        self._specs: dict[str, tuple[dict[str, Any], bytes]] = {}
        for group in manifest:
            data, place = b"".join((folder / path).read_bytes() for path in group["paths"]), 0
            for spec in group["weights"]:
                size = _bytes(spec, data[place:])
                self._specs[spec["name"]] = spec, data[place : place + size]
                place += size

    def floats(self, name: str) -> Array:
        """A tensor that is stored as bytes: byte * scale + min, in float64 and then rounded."""
        spec, data = self._specs[name]
        form = spec["quantization"]
        values = np.frombuffer(data, form["dtype"]) * form["scale"] + form["min"]
        return values.astype(np.float32).reshape(spec["shape"])

    def strings(self, name: str) -> list[str]:
        """A vector of strings, each behind its length."""
        spec, data = self._specs[name]
        found, place = [], 0
        for _ in range(int(np.prod(spec["shape"]))):
            end = place + 4 + int.from_bytes(data[place : place + 4], "little")
            found.append(data[place + 4 : end].decode())
            place = end
        return found


def _bytes(spec: dict[str, Any], data: bytes) -> int:
    """How many bytes of `data` a tensor takes."""
    count = int(np.prod(spec["shape"]))
    if spec["dtype"] != "string":
        return count * np.dtype(spec.get("quantization", spec)["dtype"]).itemsize
    place = 0
    for _ in range(count):
        place += 4 + int.from_bytes(data[place : place + 4], "little")
    return place


def fingerprint(data: bytes) -> int:
    """Fingerprint64 of FarmHash, by Google, of 3 to 7 bytes."""
    size = len(data)
    if size == 3:
        value = (data[0] + (data[1] << 8)) * K2 ^ (size + (data[2] << 2)) * K0
        return _mixed(value) * K2 % WORD
    factor = K2 + 2 * size
    first, last = (int.from_bytes(each, "little") for each in (data[:4], data[-4:]))
    value = _mixed((size + (first << 3) ^ last) * factor)
    return _mixed((last ^ value) * factor) * factor % WORD


def _mixed(value: int) -> int:
    value %= WORD
    return value ^ value >> 47


def buckets() -> Array:
    """(256, 256): the bucket of each pair of bytes, which are hashed with a space between.

    TensorFlow.js reads each byte as UTF-8 again: one that is not ASCII becomes U+FFFD.
    """
    texts = [bytes([byte]).decode(errors="replace") for byte in range(129)]
    table = [[fingerprint(f"{a} {b}".encode()) % BUCKETS for b in texts] for a in texts]
    known = np.minimum(np.arange(256), 128)
    return np.array(table, np.int64)[np.ix_(known, known)]


def ids_of(texts: Sequence[str], table: Array) -> Array:
    """(texts, longest): the buckets of their pairs, filled up with `BUCKETS`."""
    rows = []
    for text in texts:
        units = text.encode("utf-16-le")[: 2 * CHARACTERS]  # of 16 bits, as JavaScript counts
        kept = units.decode("utf-16-le", "replace").replace("\r\n", "\n")
        data = np.frombuffer(kept.encode(), np.uint8)
        rows.append(table[data[:-1], data[1:]][:PAIRS])
    ids = np.full((len(rows), max(map(len, rows))), BUCKETS, np.int64)
    for filled, row in zip(ids, rows, strict=True):
        filled[: len(row)] = row
    return ids


def model_of(tensors: Tensors) -> tl.Model:
    """ids (batch, pairs) to probabilities (batch, languages)."""
    deep, wide = (tensors.floats(f"{each}weights") for each in (DEEP, WIDE))
    dense = [
        [tensors.floats(f"dnn/{each}/{kind}") for kind in ("kernel", "bias")] for each in LAYERS
    ]
    dense[-1][1] = dense[-1][1] + tensors.floats("linear/linear_model/bias_weights")
    ids = tl.Input((None,), dtype="int64", name="ids")
    bags = {"padding_idx": BUCKETS}
    y = tl.EmbeddingBag(BUCKETS + 1, deep.shape[1], mode="mean", name="deep", **bags)(ids)
    for name, (_, bias) in zip(LAYERS, dense, strict=True):
        y = tl.Dense(len(bias), None if name == LAYERS[-1] else "relu", name=name)(y)
    linear = tl.EmbeddingBag(BUCKETS + 1, wide.shape[1], mode="sum", name="wide", **bags)(ids)
    model = tl.Model(ids, tl.Activation("softmax")(tl.Add()([y, linear])))
    deep, wide = (np.pad(each, ((0, 1), (0, 0))) for each in (deep, wide))
    model.set_weights([deep, *(weight for pair in dense for weight in pair), wide])
    return model


def sources() -> list[str]:
    """Up to `OF_EACH` source files of each suffix, of installed packages."""
    found, counts = [], Counter[str]()
    for path in sorted(Path(sysconfig.get_path("platlib")).rglob("*")):
        if path.suffix in SUFFIXES and counts[path.suffix] < OF_EACH and path.is_file():
            text = path.read_bytes().decode(errors="replace")
            if len(text) > SHORTEST:
                counts[path.suffix] += 1
                found.append(text)
    return found


def original(folder: Path, texts: Sequence[str]) -> tuple[list[dict[str, float]], float]:
    """(probabilities by language of each text, microseconds for the first), by the package."""
    done = subprocess.run(
        ["node", "-e", ORIGINAL, str(folder), str(TIMED)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    answers = [{each["languageId"]: each["confidence"] for each in one} for one in told["answers"]]
    return answers, told["taken"]


def compare(folder: Path) -> bool:
    """Print how far answers are the original's, and the times; whether all are."""
    tensors, table, texts = Tensors(folder / "model"), buckets(), sources()
    names = tensors.strings("head/predictions/class_string_lookup/Const")
    model = model_of(tensors)
    compiled = tl.compile(model)
    ids = ids_of(texts, table)
    found = compiled(ids)
    answers, taken = original(folder, texts)
    expected = np.array([[answer[name] for name in names] for answer in answers])
    same = int((found.argmax(1) == expected.argmax(1)).sum())
    off = float(np.abs(found - expected).max())
    languages = len(set(found.argmax(1)))
    print(
        f"{same} of {len(texts)} answers, of {languages} languages, are the original's; "
        f"probabilities differ by {off:.1e}"
    )
    text = texts[0]
    whole = Side("tvmlayers", lambda: compiled(ids_of([text], table)))
    (ours,) = medians([whole])
    print(
        f"a file of {len(text)} characters: tvmlayers {ours:.1f} us, TensorFlow.js {taken:.1f} us"
    )
    with tempfile.TemporaryDirectory() as scratch:
        model.to_onnx(Path(scratch, "model.onnx"))
        session = onnxruntime.InferenceSession(Path(scratch, "model.onnx"))
    rows = []
    for batch in (1, 256):
        some = np.resize(ids, (batch, ids.shape[1]))
        sides = [
            Side("tvmlayers", compiled.bind(some)),
            Side("onnxruntime", lambda some=some: session.run(None, {"ids": some})),
        ]
        rows.append((f"batch {batch}", sides))
    print_table(rows)
    # TensorFlow.js adds up to 10,000 floats one by one, which rounds each time.
    return same == len(texts) and off < 1e-3


def main(arguments: Sequence[str] = ()) -> int:
    """Compare and time; the exit status is 1 where answers differ."""
    folder = Path(arguments[0]).absolute() if arguments else installed()
    with tempfile.TemporaryDirectory() as scratch:
        return 0 if compare(folder or fetched(scratch)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
