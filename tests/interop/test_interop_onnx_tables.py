"""Tables in fewer bits from ONNX files: ONNX Runtime's rows, kept as codes where they can be."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tvmlayers as tl
from tests.networks import onnx_session

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

TensorProto, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper
RNG = np.random.default_rng(0)
ROWS, WIDTH = 20, 32
OUT = ["batch", "columns", "more"]  # names of the axes of y
EVERY = np.arange(ROWS).reshape(5, 4)


def imported(nodes: list[Any], stored: str | None, *, steps: int = 1, **constants: Any) -> tl.Layer:
    """The one table of ids (batch, 4) -> y, after all of its rows came out as ONNX Runtime's.

    steps: how often a number is rounded, once where a code is multiplied with a scale.
    """
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, OUT[: 3 - ("axes" in constants)])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    made = tl.from_onnx(model)
    (layer,) = [each for each in made.layers if isinstance(each, tl.Embedding | tl.EmbeddingBag)]
    assert layer.get_config().get("stored") == stored
    session = onnx_session(model.SerializeToString(), optimised=False)
    (wanted,) = session.run(None, {"ids": EVERY})
    # The largest number that a row holds, its offset, or the sum of four numbers of one.
    largest = 256 * np.abs(constants["s"]).max()
    np.testing.assert_allclose(tl.compile(made)(EVERY), wanted, atol=steps * largest * 2.0**-23)
    return layer


def codes(dtype: Any, *shape: int) -> Any:
    low, high = (0, 256) if dtype == np.uint8 else (-128, 128)
    if "4" in np.dtype(dtype).name:
        low, high = (0, 16) if np.dtype(dtype).name[0] == "u" else (-8, 8)
    return RNG.integers(low, high, shape).astype(dtype)


def scales(*shape: int) -> Any:
    return (RNG.uniform(0.5, 1, shape) / 64).astype(np.float32)


GATHER = helper.make_node("Gather", ["f", "ids"], ["y"])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("by_row", [False, True])
def test_a_dequantised_table_keeps_its_codes(dtype: Any, by_row: bool) -> None:
    shape = (ROWS,) if by_row else ()
    dequantise = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=0)
    given = {"w": codes(dtype, ROWS, WIDTH), "s": scales(*shape), "z": codes(dtype, *shape)}
    imported([dequantise, GATHER], "int8", **given)


def test_codes_that_are_looked_up_first_keep_their_scale() -> None:
    look_up = helper.make_node("Gather", ["w", "ids"], ["q"])
    dequantise = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])
    given = {"w": codes(np.uint8, ROWS, WIDTH), "s": scales(), "z": np.array(130, np.uint8)}
    imported([look_up, dequantise], "int8", **given)


def test_a_table_that_is_summed_is_a_bag_of_codes() -> None:
    dequantise = helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0)
    look_up = helper.make_node("Gather", ["f", "ids"], ["rows"])
    add = helper.make_node("ReduceSum", ["rows", "axes"], ["y"], keepdims=0)
    given = {"w": codes(np.int8, ROWS, WIDTH), "s": scales(ROWS), "axes": np.array([1])}
    layer = imported([dequantise, look_up, add], "int8", steps=8, **given)
    assert isinstance(layer, tl.EmbeddingBag)


def test_codes_that_are_looked_up_first_and_summed_are_a_bag_of_codes() -> None:
    look_up = helper.make_node("Gather", ["w", "ids"], ["q"])
    dequantise = helper.make_node("DequantizeLinear", ["q", "s"], ["rows"])
    add = helper.make_node("ReduceSum", ["rows", "axes"], ["y"], keepdims=0)
    given = {"w": codes(np.int8, ROWS, WIDTH), "s": scales(), "axes": np.array([1])}
    layer = imported([look_up, dequantise, add], "int8", steps=8, **given)
    assert isinstance(layer, tl.EmbeddingBag)


def blocks(bits: int, block: int, *, zeros: bool) -> list[Any]:
    inputs = ["w", "ids", "s", *(["z"] * zeros)]
    given = {"domain": "com.microsoft", "block_size": block, "bits": bits}
    return [helper.make_node("GatherBlockQuantized", inputs, ["y"], **given)]


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(
    ("bits", "block", "stored"), [(4, 32, "int8"), (4, 16, None), (8, 32, "int8"), (8, 16, None)]
)
def test_blocks_of_bytes(bits: int, block: int, stored: str | None, zeros: bool) -> None:
    count = WIDTH // block
    given = {"w": codes(np.uint8, ROWS, WIDTH * bits // 8), "s": scales(ROWS, count)}
    if zeros:
        given["z"] = codes(np.uint8, ROWS, -(-count * bits // 8))
    imported(blocks(bits, block, zeros=zeros), stored, **given)


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4])
def test_codes_of_four_bits_with_scales_of_float16_stay_four_bits(dtype: Any) -> None:
    given = {"w": codes(dtype, ROWS, WIDTH), "z": codes(dtype, ROWS, 1)}
    given["s"] = (RNG.integers(1, 32, (ROWS, 1)) / 1024).astype(np.float32)
    imported(blocks(4, 32, zeros=True), "int4", **given)


def test_what_is_no_table_is_refused() -> None:
    dequantise = helper.make_node("DequantizeLinear", ["ids", "s"], ["y"])
    graph = helper.make_graph(
        [dequantise],
        "graph",
        [helper.make_tensor_value_info("ids", TensorProto.INT8, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(scales(), "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(tl.ModelImportError, match="DequantizeLinear"):
        tl.from_onnx(model)
