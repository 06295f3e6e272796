"""`model.to_onnx()` of weights in fewer bits: the very numbers there, and the same codes again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from all_layers import agree, filled, numbers, samples, weights_of, words

import tvmlayers as tl
from tests.networks import onnx_session

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def kernels() -> tl.Model:
    """A tower that is used twice, steps, and a kernel of an odd number of columns."""
    x, y, steps = numbers(70), numbers(70), numbers(None, 70)
    tower = tl.Dense(33, "relu", name="towers.first")
    plain = tl.Dense(7, use_bias=False, name="head")
    return filled([x, y, steps], [plain(tower(x)), tower(y), tower(steps)])


def tables() -> tl.Model:
    """Look-ups, masked means, and bags of every mode that ONNX has."""
    ids, few, other = words(name="ids"), tl.Input((), dtype="int32", name="few"), words(name="o")
    factors = numbers(5, name="factors")
    table = tl.Embedding(20, 4, name="table")
    text = tl.Embedding(20, 4, mask_zero=True, name="text")(other)
    bags = [
        tl.EmbeddingBag(20, 4, mode=mode, name=f"bag_{mode}")(ids)
        for mode in ("sum", "mean", "max", "min")
    ]
    bags += [
        tl.EmbeddingBag(20, 4, mode="mean", padding_idx=3, name="padded")(ids),
        tl.EmbeddingBag(20, 4, mode="sum", name="weighted")(ids, per_sample_weights=factors),
    ]
    clipped = tl.Embedding(20, 4, oob="clip", name="clipped")(ids)
    ends = [table(ids), table(few), tl.GlobalAveragePooling1D()(text), clipped, *bags]
    return filled([ids, few, other, factors], ends)


def stored(model: tl.Model) -> dict[str, Any]:
    return {layer.name: layer.get_config()["stored"] for layer in model.layers if layer.has_weights}


KERNELS = ["int8", "int8/32", "int4", "int4/32", "int4/128", "float16", "bfloat16"]
TABLES = ["int8", "int4", "float16", "bfloat16"]


@pytest.mark.parametrize(
    ("make", "kind"), [(kernels, kind) for kind in KERNELS] + [(tables, kind) for kind in TABLES]
)
def test_codes_are_written_run_and_read_again(make: Any, kind: str, tmp_path: Path) -> None:
    base, _, group = kind.partition("/")
    granularity = int(group) if group else "channel"
    path = tmp_path / "made.onnx"
    model = tl.quantize(make(), weights=base, tables=base, granularity=granularity)
    assert set(stored(model).values()) == {kind}
    model.to_onnx(path)
    again, inputs = tl.from_onnx(path), samples(model)
    assert stored(again) == stored(model)
    assert weights_of(again) == weights_of(model)
    # Its optimiser may round the inputs of a product with a dequantised kernel.
    session = onnx_session(path, optimised=False)
    given = dict(zip([tensor.name for tensor in model.inputs], inputs, strict=True))
    agree(model, session.run(None, given), inputs)


def test_files_are_as_small_as_the_codes(tmp_path: Path) -> None:
    ids, x = words(), numbers(128)
    model = filled([ids, x], [tl.Embedding(500, 64)(ids), tl.Dense(64)(x)])
    sizes = {}
    for kind in ("float32", "int8", "int4"):
        if kind == "float32":
            kept = model
        else:
            kept = tl.quantize(model, weights=kind, tables=kind, granularity=32)
        kept.to_onnx(tmp_path / "made.onnx")
        sizes[kind] = (tmp_path / "made.onnx").stat().st_size
    # A number of 64 shares 8 or 4 bytes of scale and offset, and one of 32 a float32 scale.
    assert sizes["int8"] < sizes["float32"] * (1 + 1 / 8) / 4 + 2048
    assert sizes["int4"] < sizes["float32"] * (1 / 2 + 1 / 8) / 4 + 2048


def test_files_of_standard_operators_are_as_old_as_can_be(tmp_path: Path) -> None:
    for kind, opset in (("int8", 20), ("int8/32", 21), ("int4", 21), ("float16", 20)):
        x = numbers(64)
        tl.Model(x, tl.Dense(3, stored=kind)(x)).to_onnx(tmp_path / "made.onnx")
        proto = onnx.load(tmp_path / "made.onnx")
        assert [(row.domain, row.version) for row in proto.opset_import] == [("", opset)]


def test_codes_with_two_scales_are_two_tables() -> None:
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [helper.make_node("Gather", ["w", "ids"], ["q"])]
    nodes += [helper.make_node("DequantizeLinear", ["q", s], [s + "y"]) for s in ("s", "t")]
    ends = [helper.make_tensor_value_info(s + "y", kinds.FLOAT, ["b", 3, 4]) for s in ("s", "t")]
    codes = np.arange(-20, 20, dtype=np.int8).reshape(10, 4)
    given = {"w": codes, "s": np.float32(0.5), "t": np.float32(2)}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("ids", kinds.INT64, ["b", 3])],
        ends,
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in given.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    made = tl.from_onnx(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    found = [layer.form.floats(layer.weights, layer.stored) for layer in made.layers]
    np.testing.assert_array_equal(found, [codes * 0.5, codes * 2.0])


def test_layers_that_round_their_inputs_are_refused(tmp_path: Path) -> None:
    x = numbers(64)
    model = tl.Model(x, tl.Dense(3, stored="int8:int8", name="head")(x))
    for write in (lambda: model.to_onnx(tmp_path / "made.onnx"), model.to_torch):
        with pytest.raises(tl.ModelExportError, match="'head': it rounds its inputs to int8"):
            write()
