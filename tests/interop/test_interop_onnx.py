"""`from_onnx`, held against the onnx package's own reference evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

TensorProto, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper

RNG = np.random.default_rng(0)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def floats(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def model_of(
    nodes: list[Any], inputs: dict[str, Any], outputs: list[str], opset: int = 20, **constants: Any
) -> Any:
    """A ModelProto. inputs: (element type, shape) by name; constants: the initialisers."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *given) for name, given in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, ["batch", None]) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], name=f"n_{output}", **attributes)


def check(proto: Any) -> tl.Model:
    model = tl.from_onnx(proto)
    report = tl.verify(tl.compile(model), against=proto, samples=(1, 5))
    assert report.ok, str(report)
    return model


X = {"x": (FLOAT, ["batch", 6])}
IDS = {"ids": (INT64, ["batch", 4])}


def test_an_input_that_no_node_reads_is_taken_where_an_input_can_be_it() -> None:
    nodes = [node("MatMul", "x w", "y")]
    unused = {"ids": (INT64, ["batch", 7])}
    assert check(model_of(nodes, unused | X, ["y"], w=floats(6, 4))).input_shape == [
        (None, 7),
        (None, 6),
    ]
    for kind, shape in [(TensorProto.BOOL, ["batch", 2]), (FLOAT, [])]:
        proto = model_of(nodes, X | {"unused": (kind, shape)}, ["y"], w=floats(6, 4))
        model = tl.from_onnx(proto)
        assert model.input_shape == (None, 6)
        report = tl.verify(tl.compile(model), against=proto)
        assert not report.ok
        assert "takes 2 inputs, the compiled model 1" in str(report)


def classifier() -> Any:
    nodes = [
        node("Gather", "table ids", "rows"),
        node("Flatten", "rows", "flat"),
        node("Gemm", "flat w b", "h", transB=1),
        node("Relu", "h", "r"),
        node("MatMul", "r v", "m"),
        node("Add", "m c", "a"),
        node("Softmax", "a", "y", axis=-1),
    ]
    weights = {"w": floats(5, 12), "b": floats(5), "v": floats(5, 2), "c": floats(2)}
    return model_of(nodes, IDS, ["y"], table=floats(20, 3), **weights)


def test_a_classifier_is_imported_bit_by_bit(tmp_path: Path) -> None:
    proto = classifier()
    model = check(proto)
    assert [layer.kind for layer in model.layers if layer.has_weights] == [
        "Embedding",
        "Dense",
        "Dense",
    ]
    table = numpy_helper.to_array(proto.graph.initializer[0])
    assert model.layers[0].get_weights()[0].tobytes() == table.tobytes()
    assert model.layers[0].name == "n_rows"
    onnx.save(proto, tmp_path / "classifier.onnx")
    assert tl.from_onnx(tmp_path / "classifier.onnx").name == "classifier"


def test_activations() -> None:
    plain = (
        "Elu Exp Gelu HardSwish LogSoftmax Mish Relu Selu Sigmoid Softmax Softplus Softsign Tanh"
    )
    nodes = [node(kind, "x", kind.lower()) for kind in plain.split()]
    nodes += [
        node("LeakyRelu", "x", "leaky", alpha=0.2),
        node("HardSigmoid", "x", "hard", alpha=1 / 6, beta=0.5),
        node("Gelu", "x", "by_tanh", approximate="tanh"),
        node("Clip", "x zero", "clipped"),
        node("Clip", "x zero six", "clipped6"),
        node("Mul", "x sigmoid", "silu"),
    ]
    limits = {"zero": np.float32(0), "six": np.float32(6)}
    check(model_of(nodes, X, [n.output[0] for n in nodes], **limits))


STEPS = {"s": (FLOAT, ["batch", 4, 6])}


def test_normalisations_and_slopes() -> None:
    nodes = [
        node("LayerNormalization", "s gain bias", "ln"),
        node("LayerNormalization", "s gains", "ln2", axis=-2, epsilon=0.1),
        node("RMSNormalization", "s gain", "rms"),
        node("BatchNormalization", "s channel channel channel spread", "bn"),
        node("BatchNormalization", "x gain bias gain width", "bn2", epsilon=0.1),
        node("PRelu", "s channel_slope", "prelu"),
        node("PRelu", "x gain", "prelu2"),
        node("LeakyRelu", "x", "leaky"),
        node("Elu", "x", "elu", alpha=2.0),
        node("ReduceMax", "s axis", "most", keepdims=0),
    ]
    constants = {"gain": floats(6), "bias": floats(6), "gains": floats(4, 6), "channel": floats(4)}
    more = {"spread": np.abs(floats(4)), "width": np.abs(floats(6)), "axis": np.array([1])}
    outputs = [n.output[0] for n in nodes]
    given = {**constants, **more, "channel_slope": floats(4, 1)}
    proto = model_of(nodes, {**X, **STEPS}, outputs, opset=23, **given)
    model = tl.from_onnx(proto)
    # The evaluator's own sums are lost where the mean of a row is far from 0.
    inputs = floats(5, 6), floats(5, 4, 6)
    report = tl.verify(tl.compile(model), against=proto, inputs=inputs)
    assert report.ok, str(report)
    assert [layer.kind for layer in model.layers].count("LayerNormalization") == 2


def test_merges_of_tensors_and_constants() -> None:
    kinds = ["Add", "Sub", "Mul", "Max", "Min"]
    nodes = [node(kind, "x z", kind) for kind in kinds]
    nodes += [node(kind, "x row", f"{kind}_row") for kind in (*kinds[:3], "Div")]
    nodes += [node(kind, "one x", f"one_{kind}") for kind in kinds[:3]]
    inputs = {**X, "z": (FLOAT, ["batch", 6])}
    row = np.abs(floats(1, 6)) + np.float32(0.5)
    check(model_of(nodes, inputs, [n.output[0] for n in nodes], row=row, one=np.float32(1)))


def test_shapes_and_several_inputs() -> None:
    nodes = [
        node("Gather", "table ids", "rows"),
        node("ReduceMean", "rows axis", "mean", keepdims=0),
        node("ReduceMean", "rows axis", "kept"),
        node("Squeeze", "kept axis", "squeezed"),
        node("Unsqueeze", "x axis", "more"),
        node("Reshape", "more shape", "again"),
        node("Identity", "again", "same"),
        node("Concat", "mean squeezed same", "y", axis=-1),
    ]
    constants = {"table": floats(20, 3), "axis": np.array([1]), "shape": np.array([-1, 6])}
    check(model_of(nodes, {**X, **IDS}, ["y"], **constants))


def test_products_of_two_batches_are_dot() -> None:
    inputs = {"a": (FLOAT, ["b", 2, 3]), "c": (FLOAT, ["b", 3, 4])}
    check(model_of([node("MatMul", "a c", "y")], inputs, ["y"]))


def test_initialisers_used_twice_are_one_layer() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Tanh", "h", "t"), node("MatMul", "t w", "y")]
    model = check(model_of(nodes, X, ["y"], w=floats(6, 6)))
    assert sum(layer.has_weights for layer in model.layers) == 1


def test_one_matrix_as_table_and_as_kernel_is_two_layers() -> None:
    nodes = [
        node("Gather", "w one", "g"),
        node("MatMul", "x w", "m"),
        node("Concat", "g m", "y", axis=1),
    ]
    check(model_of(nodes, {**X, "one": (INT64, ["batch"])}, ["y"], w=floats(6, 6)))


def test_everything_unsupported_is_named_at_once() -> None:
    nodes = [
        node("Sin", "x", "s"),
        node("LeakyRelu", "s", "l"),
        node("HardSigmoid", "x", "k"),
        node("Add", "l k", "y"),
        node("ReduceMax", "x", "z"),
    ]
    with pytest.raises(tl.ModelImportError) as caught:
        tl.from_onnx(model_of(nodes, X, ["y", "z"]))
    found = str(caught.value)
    assert "Sin, node 'n_s': no layer here computes it" in found
    assert "HardSigmoid, node 'n_k': only alpha=" in found
    assert "ReduceMax, node 'n_z'" in found


@pytest.mark.parametrize("opset", [7, 99])
def test_an_unknown_opset_is_refused(opset: int) -> None:
    proto = model_of([node("Relu", "x", "y")], X, ["y"])
    proto.opset_import[0].version = opset
    with pytest.raises(tl.ModelImportError):
        tl.from_onnx(proto)


def test_damaged_and_hostile_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    data = classifier().SerializeToString()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(tl.ModelImportError, match="damaged"):
        tl.from_onnx(path)

    missing = classifier()
    del missing.graph.initializer[0]
    huge = classifier()
    huge.graph.initializer[0].dims[0] = 2**40
    short = classifier()
    short.graph.initializer[0].raw_data = b"1234"
    cycle = model_of([node("Relu", "b", "a"), node("Relu", "a", "b")], X, ["b"])
    for proto in (missing, huge, short, cycle):
        with pytest.raises(tl.ModelImportError):
            tl.from_onnx(proto)
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(tl.ModelImportError):
            tl.from_onnx(path)


def test_numbers_of_dtypes_that_onnx_has_not_are_refused() -> None:
    cast = model_of([node("Cast", "x", "y", to=99)], {"x": (FLOAT, ["batch", 3])}, ["y"])
    given = model_of([node("Relu", "x", "y")], {"x": (99, ["batch", 3])}, ["y"])
    for proto in (cast, given):
        with pytest.raises(tl.ModelImportError, match="no dtype of the number 99"):
            tl.from_onnx(proto)


def test_hostile_constants_are_not_computed() -> None:
    row, column = np.zeros((1, 2**20), np.float32), np.zeros((2**20, 1), np.float32)
    nodes = [node("Add", "row column", "large"), node("MatMul", "x large", "y")]
    with pytest.raises(tl.ModelImportError):
        tl.from_onnx(model_of(nodes, X, ["y"], row=row, column=column))
    doubled = [node("Concat", "c0 c0", "c1", axis=0)]
    doubled += [node("Concat", f"c{n} c{n}", f"c{n + 1}", axis=0) for n in range(1, 50)]
    with pytest.raises(tl.ModelImportError):
        tl.from_onnx(model_of([*doubled, node("MatMul", "x c50", "y")], X, ["y"], c0=floats(6, 6)))
    deep = [node("Identity", "c", "i0")]
    deep += [node("Identity", f"i{n}", f"i{n + 1}") for n in range(3000)]
    model = check(model_of([*deep, node("Add", "x i3000", "y")], X, ["y"], c=np.float32(2)))
    assert [layer.kind for layer in model.layers] == ["Rescaling"]


def test_deep_models_and_wide_products_are_read() -> None:
    nodes = [node("Relu", "x", "r0")]
    nodes += [node("Relu", f"r{n}", f"r{n + 1}") for n in range(1500)]
    assert len(tl.from_onnx(model_of(nodes, X, ["r1500"])).layers) == 1501
    wide = [node("Mul", "x x", "p0")] + [node("Mul", f"p{n} p{n}", f"p{n + 1}") for n in range(40)]
    assert len(tl.from_onnx(model_of(wide, X, ["p40"])).layers) == 41


def test_odd_files_are_refused(tmp_path: Path) -> None:
    second = node("Dropout", "x", "y")
    second.output.append("mask")
    foreign = node("Relu", "x", "y")
    foreign.domain = "org.example"
    twice = model_of([node("Relu", "x", "y")], X, ["y"])
    twice.graph.node.append(twice.graph.node[0])
    unknown = model_of([node("Gather", "table ids", "y")], IDS, ["y"], table=floats(20, 3))
    unknown.graph.initializer[0].data_type = 77
    for proto in (
        model_of([second, node("Relu", "mask", "z")], X, ["z"]),
        model_of([foreign], X, ["y"]),
        model_of([node("Relu", "c", "y")], {}, ["y"], c=floats(2, 3)),
        twice,
        unknown,
    ):
        path = tmp_path / "odd.onnx"
        path.write_bytes(proto.SerializeToString())
        for source in (proto, path):
            with pytest.raises(tl.ModelImportError):
                tl.from_onnx(source)


def test_external_data_stays_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(classifier(), path, save_as_external_data=True, location="weights", size_threshold=0)
    tl.compile(tl.from_onnx(path))
    (tmp_path / "secret").write_bytes((folder / "weights").read_bytes())
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(tl.ModelImportError):
        tl.from_onnx(path)
    with pytest.raises(tl.ModelImportError):
        tl.from_onnx(proto)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(tl.ConfigError, match=r"expected a path or an onnx\.ModelProto, got int"):
        tl.from_onnx(3)
    with pytest.raises(FileNotFoundError):
        tl.from_onnx(tmp_path / "absent.onnx")


def test_a_reshape_of_which_no_size_is_0_may_set_allowzero() -> None:
    nodes = [
        node("Gather", "table ids", "rows"),
        node("Reshape", "rows sizes", "flat", allowzero=1),
        node("Gemm", "flat w", "y"),
    ]
    given = {"table": floats(9, 3), "w": floats(12, 2)}
    check(model_of(nodes, IDS, ["y"], **given, sizes=[-1, 12]))
    with pytest.raises(tl.ModelImportError, match="begin with the batch"):
        tl.from_onnx(model_of(nodes, IDS, ["y"], **given, sizes=[0, 12]))
