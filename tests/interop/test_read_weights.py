"""Matrices of GGUF and safetensors files become layers that compute with the very numbers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers.errors import ModelImportError, WeightsError

RNG = np.random.default_rng(0)
OUTPUTS, INPUTS = 6, 64
FLOATS = RNG.normal(size=(OUTPUTS, INPUTS)).astype(np.float32)


def write(path: Path, **arrays: Any) -> Path:
    """A safetensors file, float8 among its dtypes."""
    dtypes = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
    dtypes |= {
        "int8": "I8",
        "uint32": "U32",
        "float32": "F32",
        "bfloat16": "BF16",
        "float16": "F16",
    }
    header, data = {}, b""
    for name, array in arrays.items():
        begin, data = len(data), data + array.tobytes()
        about = {"dtype": dtypes[array.dtype.name], "shape": list(array.shape)}
        header[name] = {**about, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def rows_of(layer: tl.Layer, count: int) -> np.ndarray:
    """The numbers of a Dense's kernel, by a unit matrix, or of an Embedding's rows."""
    if isinstance(layer, tl.Embedding):
        return np.asarray(tl.compile(layer)(np.arange(count)))
    return np.asarray(tl.compile(layer)(np.eye(count, dtype=np.float32))).T


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gguf = pytest.importorskip("gguf", reason="pip install gguf")
    path = tmp_path_factory.mktemp("gguf") / "weights.gguf"
    writer = gguf.GGUFWriter(path, "test")
    for kind in ("Q8_0", "Q4_0", "Q5_0"):
        of = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(f"{kind}.weight", gguf.quants.quantize(FLOATS, of), raw_dtype=of)
    short = gguf.quants.quantize(FLOATS[:, :32], gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("short.weight", short, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("half.weight", FLOATS.astype(np.float16))
    writer.add_tensor("vector", FLOATS[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("kind", "stored"), [("Q8_0", "int8/32"), ("Q4_0", "int4/32"), ("Q5_0", None)]
)
def test_blocks_of_gguf_are_groups_of_a_dense(gguf_file: Path, kind: str, stored: str) -> None:
    gguf = pytest.importorskip("gguf")
    of = gguf.GGMLQuantizationType[kind]
    wanted = gguf.quants.dequantize(gguf.quants.quantize(FLOATS, of), of)
    weight = tl.read_weights(gguf_file)[f"{kind}.weight"]
    assert (weight.kind, weight.shape) == (kind, (OUTPUTS, INPUTS))
    np.testing.assert_array_equal(weight.numbers(), wanted)
    layer = weight.dense()
    assert layer.get_config().get("stored") == stored
    # A code times its scale is rounded once.
    np.testing.assert_allclose(rows_of(layer, INPUTS), wanted, rtol=2.0**-23)


def test_rows_of_gguf_are_a_table(gguf_file: Path) -> None:
    weights = tl.read_weights(gguf_file)
    short = weights["short.weight"]
    assert short.embedding().get_config()["stored"] == "int8"
    # Codes lie up to 255 steps from a row's offset.
    atol = 256 * np.abs(short.numbers()).max() / 127 * 2.0**-23
    np.testing.assert_allclose(rows_of(short.embedding(), OUTPUTS), short.numbers(), atol=atol)
    blocks = weights["Q8_0.weight"]
    assert blocks.embedding().get_config().get("stored") is None
    np.testing.assert_array_equal(rows_of(blocks.embedding(), OUTPUTS), blocks.numbers())
    half = weights["half.weight"].embedding()
    assert half.get_config()["stored"] == "float16"
    np.testing.assert_array_equal(rows_of(half, OUTPUTS), FLOATS.astype(np.float16))
    with pytest.raises(ModelImportError, match="'vector' expected a matrix"):
        weights["vector"].dense()


@pytest.mark.parametrize("scales", [(), (OUTPUTS, 1), (OUTPUTS,)], ids=str)
def test_int8_of_safetensors_keeps_its_codes(scales: tuple[int, ...], tmp_path: Path) -> None:
    codes = RNG.integers(-128, 128, (OUTPUTS, INPUTS)).astype(np.int8)
    scale = RNG.uniform(0.01, 0.02, scales).astype(np.float32)
    path = write(tmp_path / "w.safetensors", **{"up.weight": codes, "up.weight_scale": scale})
    weights = tl.read_weights(path)
    assert list(weights) == ["up.weight"]
    layer = weights["up.weight"].dense("relu", bias=np.zeros(OUTPUTS))
    assert layer.get_config()["stored"] == "int8"
    assert layer.name == "up_weight"
    wanted = codes * np.broadcast_to(scale.reshape(-1, 1), (OUTPUTS, 1))
    np.testing.assert_array_equal(weights["up.weight"].numbers(), wanted)
    found = rows_of(layer, INPUTS)
    np.testing.assert_allclose(found, np.maximum(wanted, 0), rtol=2.0**-23)


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("rows", [1, 3, OUTPUTS])
def test_int8_of_safetensors_keeps_its_blocks(group: int, rows: int, tmp_path: Path) -> None:
    codes = RNG.integers(-128, 128, (OUTPUTS, 2 * group)).astype(np.int8)
    scale = RNG.uniform(0.01, 0.02, (rows, 2)).astype(np.float32)
    path = write(tmp_path / "w.safetensors", **{"up.weight": codes, "up.scales": scale})
    weight = tl.read_weights(path)["up.weight"]
    wanted = codes * np.kron(scale, np.ones((OUTPUTS // rows, group), np.float32))
    np.testing.assert_array_equal(weight.numbers(), wanted)
    layer = weight.dense()
    assert layer.get_config()["stored"] == f"int8/{group}"
    exact = codes * np.kron(scale.astype(np.float64), np.ones((OUTPUTS // rows, group)))
    np.testing.assert_array_equal(layer.form.floats(layer.weights, layer.stored), exact.T)


def test_scales_of_other_shapes_lie_along_their_own_axis(tmp_path: Path) -> None:
    square, stack = np.ones((32, 32), np.int8), np.ones((3, 4, 5), ml_dtypes.float8_e5m2)
    across, of_each = np.arange(32, dtype=np.float32)[None], np.array([2.5, 3, 5], np.float32)
    given = {"a": square, "a_scale": across, "b": stack, "b_scale": of_each[:, None, None]}
    given |= {"c": square[0], "c_scale": across[0]}
    weights = tl.read_weights(write(tmp_path / "w.safetensors", **given))
    np.testing.assert_array_equal(weights["a"].numbers(), np.broadcast_to(across, (32, 32)))
    wanted = np.broadcast_to(of_each[:, None, None], (3, 4, 5))
    np.testing.assert_array_equal(weights["b"].numbers(), wanted)
    np.testing.assert_array_equal(weights["c"].numbers(), across[0])


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
@pytest.mark.parametrize("end", ["_scale", "_scale_inv"])
def test_float8_of_safetensors_is_exact(dtype: Any, end: str, tmp_path: Path) -> None:
    numbers = RNG.normal(size=(200, 150)).astype(dtype)
    scales = RNG.uniform(0.5, 2, (2, 2)).astype(np.float32)
    given = {"a": numbers, f"a{end}": scales, "b": numbers, f"b{end}": np.array(0.25, np.float32)}
    weights = tl.read_weights(write(tmp_path / "w.safetensors", **given))
    by_block = np.kron(scales, np.ones((128, 128), np.float32))[:200, :150]
    wide = numbers.astype(np.float32)
    np.testing.assert_array_equal(weights["a"].numbers(), wide * by_block)
    assert weights["a"].dense().get_config().get("stored") is None
    # A power of two as the scale: eight bits are sixteen bits of bfloat16.
    np.testing.assert_array_equal(weights["b"].numbers().astype(np.float32), wide / 4)
    assert weights["b"].dense().get_config()["stored"] == "bfloat16"


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    codes = np.zeros((3, 5), np.int8)
    with pytest.raises(ModelImportError, match="'w' is int8 and has no scale"):
        tl.read_weights(write(tmp_path / "w.safetensors", w=codes))["w"].dense()
    odd = {"w": codes, "w_scale": np.ones((2, 2), np.float32)}
    with pytest.raises(ModelImportError, match=r"scales of 'w' \(3, 5\) have the shape \(2, 2\)"):
        tl.read_weights(write(tmp_path / "odd.safetensors", **odd))["w"].numbers()
    packed = {"w": np.zeros((4, 8), np.uint32), "w_scale": np.ones(4, np.float32)}
    for make in ("dense", "embedding"):
        with pytest.raises(ModelImportError, match="'w' is uint32: weights are floats"):
            getattr(tl.read_weights(write(tmp_path / "p.safetensors", **packed))["w"], make)()
    shifted = {"w": codes, "w_scale": np.ones(3, np.float32), "w_zero_point": codes[:, :1] + 1}
    with pytest.raises(ModelImportError, match="'w' has zero points other than 0"):
        tl.read_weights(write(tmp_path / "z.safetensors", **shifted))["w"].numbers()
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(40))
    pytest.importorskip("gguf")
    with pytest.raises(ModelImportError, match="no GGUF file"):
        tl.read_weights(damaged)
    (tmp_path / "damaged.safetensors").write_bytes(bytes(20))
    with pytest.raises((ModelImportError, WeightsError), match="no safetensors file"):
        tl.read_weights(tmp_path / "damaged.safetensors")
    with pytest.raises(FileNotFoundError):
        tl.read_weights(tmp_path / "none.gguf")
