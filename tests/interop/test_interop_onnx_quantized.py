"""Kernels in fewer bits from ONNX files: the very numbers of ONNX Runtime, kept as codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl
from tests.networks import onnx_session

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

TensorProto, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper
RNG = np.random.default_rng(0)
K, N = 70, 24


def proto(nodes: list[Any], k: int = K, **constants: Any) -> Any:
    """x (batch, k) -> y (batch, N)."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", N])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def session(model: Any) -> Any:
    # Its optimiser may round the inputs of a product with a dequantised kernel.
    return onnx_session(model.SerializeToString(), optimised=False)


def imported(model: Any, stored: str) -> tl.Dense:
    """The one Dense of the model: ONNX Runtime's numbers, found by rows of a unit matrix."""
    made = tl.from_onnx(model)
    (layer,) = [each for each in made.layers if isinstance(each, tl.Dense)]
    assert layer.stored == stored
    compiled = tl.compile(made)
    assert tl.verify(compiled, samples=(1, 7)).ok
    k = made.inputs[0].shape[1]
    unit = np.eye(k, dtype=np.float32)
    (wanted,) = session(model).run(None, {"x": unit})
    # A product and a sum with zeros are exact; a code times its scale is rounded once.
    np.testing.assert_allclose(compiled(unit), wanted, rtol=2.0**-23, atol=0)
    return layer


def codes(dtype: Any, *shape: int) -> Any:
    """All of a dtype's range, both of its ends among them."""
    bits = 4 if "4" in np.dtype(dtype).name else 8
    low, high = (
        (0, 1 << bits) if np.dtype(dtype).name[0] == "u" else (-(1 << bits - 1), 1 << bits - 1)
    )
    made = RNG.integers(low, high, shape)
    made.flat[:2] = low, high - 1
    return made.astype(dtype)


def scales(*shape: int) -> Any:
    return (RNG.uniform(0.5, 1, shape) / 64).astype(np.float32)


def dequantised(kind: str, **attributes: Any) -> list[Any]:
    first = helper.make_node(
        "DequantizeLinear", ["w", "s", *(["z"] * ("z" in kind))], ["f"], **attributes
    )
    if "gemm" in kind:
        return [first, helper.make_node("Gemm", ["x", "f"], ["y"], transB=1)]
    if "turned" in kind:
        turn = helper.make_node("Transpose", ["f"], ["t"], perm=[1, 0])
        return [first, turn, helper.make_node("MatMul", ["x", "t"], ["y"])]
    return [first, helper.make_node("MatMul", ["x", "f"], ["y"])]


INT4 = pytest.importorskip("ml_dtypes").int4
UINT4 = pytest.importorskip("ml_dtypes").uint4


@pytest.mark.parametrize(
    ("kind", "stored", "attributes", "w", "s", "z"),
    [
        ("matmul", "int8", {}, codes("int8", K, N), scales(), None),
        ("matmul", "int8", {"axis": 1}, codes("int8", K, N), scales(N), None),
        ("gemm", "int8", {"axis": 0}, codes("int8", N, K), scales(N), None),
        ("turned", "int8", {"axis": 0}, codes("int8", N, K), scales(N), None),
        ("matmul z", "int8", {"axis": 1}, codes("uint8", K, N), scales(N), np.full(N, 128, "u1")),
        ("matmul z", "float32", {"axis": 1}, codes("uint8", K, N), scales(N), np.full(N, 7, "u1")),
        ("matmul", "float32", {"axis": 0}, codes("int8", K, N), scales(K), None),
        ("matmul", "int4", {"axis": 1}, codes(INT4, K, N), scales(N), None),
        ("matmul", "int4/32", {"axis": 0, "block_size": 32}, codes(INT4, K, N), scales(3, N), None),
        ("gemm z", "int4/64", {"axis": 1, "block_size": 64}, codes(UINT4, N, K), scales(N, 2),
         np.full((N, 2), 8, UINT4)),
        ("matmul", "float32", {"axis": 0, "block_size": 16}, codes(INT4, K, N), scales(5, N), None),
    ],
)  # fmt: skip
def test_a_dequantised_kernel_is_kept_as_its_codes(
    kind: str, stored: str, attributes: dict[str, int], w: Any, s: Any, z: Any
) -> None:
    zeros = {} if z is None else {"z": z}
    imported(proto(dequantised(kind, **attributes), w=w, s=s, **zeros), stored)


@pytest.mark.parametrize("target", ["x86-64-v3", "native"])
def test_the_least_code_is_multiplied_right(target: str) -> None:
    # Kinds of ours end at -127; other tools use -128.
    w, s = np.full((K, N), -128, np.int8), np.full(N, 0.5, np.float32)
    model = tl.from_onnx(proto(dequantised("matmul", axis=1), w=w, s=s))
    compiled = tl.compile(model, target=target)
    x = RNG.normal(size=(40, K)).astype(np.float32)
    for rows in (1, 5, 40):
        got, wanted = (
            compiled(x[:rows]),
            np.full((rows, N), -64) * x[:rows].sum(1, dtype=np.float64)[:, None],
        )
        assert np.abs(got - wanted).max() <= K * 2.0**-22 * 64 * np.abs(x).max()


@pytest.mark.parametrize(
    ("bits", "block", "zero", "stored"),
    [(4, 32, None, "int4/32"), (4, 128, None, "int4/128"), (4, 32, 8, "int4/32"),
     (4, 64, 3, "float32"), (4, 16, None, "float32"), (8, 64, None, "int8/64")],
)  # fmt: skip
def test_kernels_of_matmulnbits_are_kept(
    bits: int, block: int, zero: int | None, stored: str
) -> None:
    groups = -(-K // block)
    constants = {"w": codes("uint8", N, groups, block * bits // 8), "s": scales(N, groups)}
    if zero is not None:
        constants["z"] = np.full((N, -(-groups * bits // 8)), zero * 17, np.uint8)
    names = ["x", "w", "s", *(["z"] * (zero is not None))]
    made = helper.make_node(
        "MatMulNBits", names, ["y"], domain="com.microsoft",
        K=K, N=N, bits=bits, block_size=block, accuracy_level=0,
    )  # fmt: skip
    layer = imported(proto([made], **constants), stored)
    assert not layer.use_bias


def test_what_onnx_runtime_rounds_in_the_call_keeps_its_kernel(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    weights = {"w": RNG.normal(size=(K, N)).astype(np.float32), "b": scales(N)}
    onnx.save(proto(nodes, **weights), tmp_path / "float.onnx")
    for per_channel in (False, True):
        quantize_dynamic(
            tmp_path / "float.onnx",
            tmp_path / "int8.onnx",
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
        )
        made = tl.from_onnx(tmp_path / "int8.onnx")
        (layer,) = [each for each in made.layers if isinstance(each, tl.Dense)]
        assert layer.stored == "int8"
        compiled = tl.compile(made)
        assert tl.verify(compiled, samples=(1, 7)).ok
        # Of a unit row the rounding to 8 bits in the call keeps all: 1 is 255 / 255.
        unit = np.eye(K, dtype=np.float32)
        (wanted,) = session(onnx.load(tmp_path / "int8.onnx")).run(None, {"x": unit})
        np.testing.assert_allclose(compiled(unit), wanted, rtol=2.0**-20, atol=2.0**-20)


@pytest.mark.parametrize(
    ("nodes", "constants", "said"),
    [
        (
            [
                helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
            ],
            {"s": scales(), "z": np.array(3, np.uint8)},
            "import the float model, and tl.quantize it",
        ),
        (
            [helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
                              K=K, N=N, bits=4, block_size=32)],
            {"w": codes("uint8", N, 2, 16), "s": scales(N, 2)},
            "the size that K, N and block_size say",
        ),
        (
            [helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft",
                              K=K, N=N, bits=2, block_size=32)],
            {"w": codes("uint8", N, 3, 8), "s": scales(N, 3)},
            "only 4 and 8 bits",
        ),
    ],
)  # fmt: skip
def test_other_forms_are_refused_by_name(
    nodes: list[Any], constants: dict[str, Any], said: str
) -> None:
    with pytest.raises(tl.ModelImportError, match=said):
        tl.from_onnx(proto(nodes, **constants))
