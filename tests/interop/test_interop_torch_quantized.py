"""Quantised modules of PyTorch: their very numbers, kept as codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tvmlayers as tl

torch = pytest.importorskip("torch")
ao = torch.ao.quantization
nn, quantized, dynamic = torch.nn, torch.ao.nn.quantized, torch.ao.nn.quantized.dynamic

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:UserWarning")
RNG = np.random.default_rng(0)
K, N, ROWS, WIDTH = 40, 12, 30, 16
# PyTorch rounds a row of one 1 to 127 steps of 1/127, and multiplies by both in float32.
ULPS = 2.0**-21


def dense_layers(model: tl.Model) -> list[tl.Dense]:
    return [layer for layer in model.layers if isinstance(layer, tl.Dense)]


@pytest.mark.parametrize(
    ("config", "stored"),
    [
        (ao.default_dynamic_qconfig, "int8"),
        (ao.per_channel_dynamic_qconfig, "int8"),
        (ao.float16_dynamic_qconfig, "float16"),
    ],
)
def test_a_dynamic_linear_keeps_its_codes(config: Any, stored: str) -> None:
    torch.manual_seed(0)
    floats = nn.Sequential(nn.Linear(K, N), nn.ReLU(), nn.Linear(N, 5, bias=False)).eval()
    network = ao.quantize_dynamic(floats, {nn.Linear: config})
    model = tl.from_torch(network)
    assert isinstance(network[0], dynamic.Linear)  # left as it was
    for layer, module in zip(dense_layers(model), (network[0], network[2]), strict=True):
        assert layer.stored == stored
        weight = module.weight()
        codes = weight.int_repr() if weight.is_quantized else weight
        np.testing.assert_array_equal(layer.weights["kernel"], codes.numpy().T)
        assert layer.use_bias == (module.bias() is not None)
    assert [layer.name for layer in model.layers] == ["0", "1", "2"]
    # Without a bias a unit row gives a row of the kernel.
    last = tl.from_torch(network[2])
    unit = np.eye(N, dtype=np.float32)
    wanted = network[2](torch.from_numpy(unit)).numpy()
    compiled = tl.compile(last)
    np.testing.assert_allclose(compiled(unit), wanted, rtol=ULPS, atol=0)
    assert tl.verify(compiled, samples=(1, 7)).ok


def test_codes_around_another_zero_point_are_kept_where_a_byte_holds_them() -> None:
    module = dynamic.Linear(K, N)
    numbers = torch.from_numpy(RNG.normal(size=(N, K)).astype(np.float32))
    for given, zero, stored in ((numbers.abs(), -128, "float32"), (numbers / 4, 3, "int8")):
        weight = torch.quantize_per_tensor(given, 1 / 64, zero, torch.qint8)
        module.set_weight_bias(weight, torch.zeros(N))
        (layer,) = dense_layers(tl.from_torch(module))
        assert layer.stored == stored
        kernel = layer.weights["kernel"]
        found = kernel * layer.weights["scales"] if stored == "int8" else kernel
        np.testing.assert_array_equal(found, weight.dequantize().numpy().T)


def test_a_fused_activation_and_a_shared_module() -> None:
    fused = torch.ao.nn.intrinsic.quantized.dynamic.LinearReLU(K, K)
    codes = torch.quantize_per_tensor(
        torch.from_numpy(RNG.normal(size=(K, K)).astype(np.float32)), 1 / 32, 0, torch.qint8
    )
    fused.set_weight_bias(codes, torch.zeros(K))
    model = tl.from_torch(nn.Sequential(fused, fused), torch.zeros(2, K))
    (layer,) = dense_layers(model)
    assert layer.stored == "int8"
    numbers = codes.dequantize().numpy().T.astype(np.float64)
    x = RNG.normal(size=(3, K)).astype(np.float32)
    once = np.maximum(x @ numbers, 0)
    # Inputs have 24 bits: each product is off by 2^-23 of its row's largest magnitude, and the
    # first product's errors pass through the second.
    reach = np.abs(numbers).sum(0).max()
    atol = 4 * 2.0**-23 * reach * np.abs(once).max() + 4 * 2.0**-23 * reach**2 * np.abs(x).max()
    np.testing.assert_allclose(model(x), np.maximum(once @ numbers, 0), rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("config", "stored"),
    [
        (ao.float_qparams_weight_only_qconfig, "int8"),
        (ao.float_qparams_weight_only_qconfig_4bit, "int4"),
    ],
)
def test_quantised_rows_are_kept(config: Any, stored: str) -> None:
    table = torch.from_numpy(RNG.normal(size=(ROWS, WIDTH)).astype(np.float32))
    ids = torch.from_numpy(RNG.integers(0, ROWS, (4, 6)))
    # A code's product and sum are rounded each, and six numbers are added up.
    most = float(table.abs().max())
    for floats, twin in (
        (nn.Embedding(ROWS, WIDTH, _weight=table), quantized.Embedding),
        (nn.EmbeddingBag(ROWS, WIDTH, mode="sum", _weight=table), quantized.EmbeddingBag),
    ):
        floats.qconfig = config
        fewer = twin.from_float(floats)
        fewer.dtype = (
            fewer.weight().dtype
        )  # PyTorch's Embedding takes rows of 4 bits for bytes else
        model = tl.from_torch(nn.Sequential(fewer), ids)
        (layer,) = model.layers
        assert layer.stored == stored
        wanted = fewer(ids).numpy()
        np.testing.assert_allclose(model(ids.numpy()), wanted, rtol=0, atol=12 * most * 2.0**-22)
        # The rows go back to PyTorch as they are.
        unpack = {"int8": "byte", "int4": "4bit"}[stored]
        rows = torch.from_numpy(layer.get_weights()[0])
        theirs = getattr(torch.ops.quantized, f"embedding_bag_{unpack}_unpack")(rows)
        each = fewer(torch.arange(ROWS)[:, None]).reshape(ROWS, WIDTH)
        torch.testing.assert_close(theirs, each, rtol=0, atol=2 * most * 2.0**-22)


def test_a_bag_with_offsets_and_weights() -> None:
    floats = nn.EmbeddingBag(ROWS, WIDTH, mode="sum")
    floats.qconfig = ao.float_qparams_weight_only_qconfig
    fewer = quantized.EmbeddingBag.from_float(floats)
    fewer.include_last_offset = True
    ids, offsets = torch.arange(9) % ROWS, torch.tensor([0, 4, 4, 9])
    factors = torch.from_numpy(RNG.normal(size=9).astype(np.float32))
    model = tl.from_torch(fewer, (ids, offsets, factors))
    wanted = fewer(ids, offsets, factors).numpy()
    got = model(ids.numpy(), offsets.numpy(), factors.numpy())
    # Each of up to five terms is rounded three times and added.
    atol = 8 * 2.0**-23 * float(factors.abs().sum() * floats.weight.abs().max())
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)


def test_what_is_not_read_is_refused_by_name() -> None:
    network = nn.Sequential(quantized.Quantize(0.1, 0, torch.quint8), quantized.Linear(K, N))
    with pytest.raises(tl.ModelImportError, match=r"0 is a .*\.Quantize, .*tl\.quantize it"):
        tl.from_torch(network, torch.zeros(2, K))
    pruned = quantized.EmbeddingBag(ROWS, WIDTH)
    pruned.pruned_weights = True
    with pytest.raises(tl.ModelImportError, match="pruned rows"):
        tl.from_torch(pruned, torch.zeros(2, 3, dtype=torch.int64))
