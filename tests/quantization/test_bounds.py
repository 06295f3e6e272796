"""What fewer bits may change is bounded in advance, and `verify` holds results to the bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers.quantization import COLUMNS, KINDS
from tvmlayers.runtime.compiled import Compiled
from tvmlayers.testing import Report
from tvmlayers.testing.reference import Reference

pytest.importorskip("torch")
SAMPLES = (1, 3, 40)
WIDTH, UNITS, ROWS = 24, 40, 60


def network() -> tl.Model:
    """Lookups, products and an activation with a least value, one after another."""
    words, bag = tl.Input((6,), name="words"), tl.Input((5,), name="bag")
    pooled = tl.GlobalAveragePooling1D()(tl.Embedding(ROWS, WIDTH, seed=1, name="a")(words))
    summed = tl.EmbeddingBag(ROWS, WIDTH, mode="sum", seed=2, name="b")(bag)
    joined = tl.LayerNormalization()(tl.Concatenate()([pooled, summed]))
    hidden = tl.Dense(UNITS, "gelu", seed=3, name="c")(joined)
    near = tl.Dot(axes=1, normalize=True)([pooled, summed])
    result = tl.Dense(7, "softmax", seed=4, name="d")(tl.Concatenate()([hidden, near]))
    model = tl.Model([words, bag], result)
    rng = np.random.default_rng(9)
    model.set_weights([rng.normal(size=w.shape) / len(w) ** 0.5 for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def model() -> tl.Model:
    return network()


@pytest.fixture(scope="module", params=KINDS)
def compiled(request: pytest.FixtureRequest, model: tl.Model) -> Compiled:
    made = tl.compile(tl.quantize(model, tables=request.param, weights=request.param))
    assert isinstance(made, Compiled)
    return made


def shares(report: Report, *, floats: bool) -> list[float]:
    return [row.share for row in report.rows if row.entry.endswith("float weights") == floats]


def test_results_are_within_rounding_and_within_the_bound(
    compiled: Compiled, model: tl.Model
) -> None:
    report = tl.verify(compiled, model, samples=SAMPLES)
    assert report.ok, report
    assert len(shares(report, floats=True)) == len(shares(report, floats=False)) > 0
    assert max(shares(report, floats=True)) > 0  # fewer bits do change something


def test_rounding_does_not_explain_what_fewer_bits_change(
    compiled: Compiled, model: tl.Model
) -> None:
    # The float model's results, held to rounding alone, are not those of fewer bits.
    unlike = tl.verify(tl.compile(model), samples=SAMPLES)
    assert unlike.ok
    ids = (np.arange(18).reshape(3, 6), np.arange(15).reshape(3, 5))
    off = np.abs(compiled(*ids) - tl.compile(model)(*ids)).max()
    assert off > max(row.tolerance for row in unlike.rows)


def test_another_float_model_is_beyond_the_bound(compiled: Compiled) -> None:
    if any(row.get("stored", "").startswith("int4") for row in compiled.report()):
        pytest.skip("what four bits may change in this model reaches as far as a softmax does")
    other = network()
    kernel, bias = other.layers[-1].get_weights()
    other.layers[-1].set_weights([kernel, bias + np.array([5, 0, 0, 0, 0, 0, 0])])
    report = tl.verify(compiled, other, samples=SAMPLES)
    assert not report.ok
    assert max(shares(report, floats=False)) <= 1 < max(shares(report, floats=True))


def test_compiled_code_takes_no_other_weights_in_fewer_bits(compiled: Compiled) -> None:
    with pytest.raises(tl.WeightsError, match=r"'a' keeps its weights as .*compile it again"):
        compiled.set_weights(network().weights)


def test_a_batch_normalisation_is_not_folded_into_fewer_bits() -> None:
    dense = tl.Dense(12, input_dim=20, seed=1)
    model = tl.quantize(tl.Sequential([dense, tl.BatchNormalization()]), weights="int8")
    compiled = tl.compile(model)
    (row,) = [row for row in compiled.report() if row["kind"] == "dense"]
    assert row["stored"] == "int8"
    assert tl.verify(compiled, samples=SAMPLES).ok


def test_a_loaded_artefact_says_and_keeps_the_same(
    compiled: Compiled, model: tl.Model, tmp_path: Path
) -> None:
    path = tmp_path / "model.tvml"
    compiled.save(path)
    loaded = tl.load(path)
    ids = (np.arange(18).reshape(3, 6), np.arange(15).reshape(3, 5))
    np.testing.assert_array_equal(loaded(*ids), compiled(*ids))
    assert loaded.report() == compiled.report()
    assert tl.verify(loaded, model, samples=(3,)).ok
    kinds = {each["config"].get("stored") for each in loaded.manifest["model"]["layers"]}
    assert len({kind.partition("/")[0] for kind in kinds - {None}}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_reported_bound_of_a_sum_holds_and_is_near(kind: str) -> None:
    layer = tl.Dense(UNITS, input_dim=300, use_bias=False, seed=5)
    kept = tl.quantize(layer, weights=kind)
    compiled = tl.compile(kept)
    (row,) = compiled.report()
    errors = COLUMNS.floats(kept.weights, kept.stored) - layer.weights["kernel"]
    x = errors.T.astype(np.float32)  # the rows that the errors are worst for
    off = np.abs(compiled(x) - x.astype(np.float64) @ layer.weights["kernel"]).max(axis=1)
    lengths = np.linalg.norm(x.astype(np.float64), axis=1)
    share = off / (row["sum_error_bound"] * lengths)
    assert 0.3 < share.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_reported_bound_of_a_row_holds_and_is_near(kind: str) -> None:
    layer = tl.Embedding(ROWS, WIDTH, seed=5)
    compiled = tl.compile(tl.quantize(layer, tables=kind))
    bound = compiled.report()[0]["row_error_bound"]
    table = layer.weights["embeddings"]
    off = np.abs(compiled(np.arange(ROWS)).astype(np.float64) - table).max()
    rounding = np.finfo(np.float32).eps * np.abs(table).max()
    assert 0.5 * bound < off <= bound + rounding


def test_an_original_of_another_framework_is_met_within_the_bound() -> None:
    import torch

    network = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.ReLU(), torch.nn.Linear(20, 5))
    imported = tl.quantize(tl.from_torch(network), weights="int8")
    assert tl.verify(tl.compile(imported), against=network, samples=SAMPLES).ok


def test_errors_of_inputs_in_8_bits_that_agree_add_up() -> None:
    # The two columns of one input have the same error, and so have all products of them.
    last = tl.Dense(1, use_bias=False, name="last")
    x, other = tl.Input((2,)), tl.Input((64,))
    rows = [tl.Dense(64, use_bias=False, seed=1)(x), other]
    model = tl.Model([x, other], last(tl.Multiply()(rows)))
    for layer, kernel in ((model.layers[0], np.ones((2, 64))), (last, np.ones((64, 1)))):
        layer.set_weights([kernel.astype(np.float32)])
    small = tl.quantize(model, weights="int8", activations="int8", keep=["last"])
    # Half a step is lost of the second number, in each of the 64 columns, where it is rounded.
    given = np.array([[127, 0.5]], np.float32), np.ones((1, 64), np.float32)
    (wanted,) = Reference(small)(*given)
    assert wanted.bound.item() >= 64 / 2
    assert tl.verify(tl.compile(small), inputs=given).ok
