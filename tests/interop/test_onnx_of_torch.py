"""ONNX files that PyTorch's own exporter writes, of several opsets, imported and equal."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from all_layers import agree
from torch import Tensor, nn
from torch_modules import STEPS, Lambda, X, ids

import tvmlayers as tl

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter about itself
OPSETS = (11, 17, 20)


def exported(module: nn.Module, example: Any, opset: int) -> Any:
    """The ModelProto of a module, its batch free."""
    given = example if isinstance(example, tuple) else (example,)
    names, buffer = [f"in_{place}" for place in range(len(given))], io.BytesIO()
    torch.onnx.export(
        module.eval(),
        given,
        buffer,
        dynamo=False,
        opset_version=opset,
        input_names=names,
        dynamic_axes={name: {0: "batch"} for name in names},
    )
    return onnx.load_from_string(buffer.getvalue())


def check(module: nn.Module, example: Any, opset: int) -> list[str]:
    """The kinds of the layers that an export becomes, which give what PyTorch gives."""
    model = tl.from_onnx(exported(module, example, opset))
    given = example if isinstance(example, tuple) else (example,)
    given = tuple(
        torch.randn(5, *x.shape[1:]) if x.is_floating_point() else ids(5, *x.shape[1:])
        for x in given
    )
    with torch.no_grad():
        made = module(*given)
    results = [t.numpy() for t in (made if isinstance(made, tuple) else (made,))]
    agree(model, results, tuple(x.numpy() for x in given), share=2.0)
    return [layer.kind for layer in model.layers]


def norms(self: Any, x: Tensor) -> Any:
    rms = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
    return self.ln(x), rms, self.plain(x), F.normalize(x, dim=-1), self.bn(x)


def masked(self: Any, i: Tensor) -> Tensor:
    kept = (i != 0).float()
    return (self.e(i) * kept.unsqueeze(-1)).sum(1) / kept.sum(1, keepdim=True).clamp(min=1)


def pooled(self: Any, i: Tensor) -> Any:
    return self.e(i).mean(1), self.e(i).sum(1), self.e(i).amax(1), self.e(i).flatten(1)


def written_gelu(self: Any, x: Tensor) -> Any:
    inner = (2 / np.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3))
    return 0.5 * x * (1 + torch.tanh(inner)), x * 0.5 * (1.0 + torch.erf(x / 2**0.5))


@pytest.mark.parametrize("opset", OPSETS)
def test_activations(opset: int) -> None:
    functions: list[Callable[..., Tensor]] = [
        *(F.relu, F.relu6, F.elu, F.selu, F.gelu, F.silu, F.softplus, F.softsign, F.hardsigmoid),
        *(torch.exp, torch.tanh, torch.sigmoid, nn.GELU("tanh"), nn.Softmax(-1), nn.LogSoftmax(-1)),
        *(nn.LeakyReLU(0.2), nn.LeakyReLU(0.01), nn.ELU(0.7), lambda x: x * x.sigmoid()),
    ]
    functions += [F.hardswish, F.mish] if opset >= 14 else []
    module = Lambda(lambda _, x: tuple(function(x) for function in functions))
    kinds = check(module, X, opset)
    assert kinds.count("Activation") == len(functions) - 2
    assert check(Lambda(written_gelu), X, opset) == ["Activation"] * 2


@pytest.mark.parametrize("opset", OPSETS)
def test_normalisations(opset: int) -> None:
    parts = {"ln": nn.LayerNorm(6), "bn": nn.BatchNorm1d(4)}
    for part in parts.values():
        nn.init.uniform_(part.weight)
    parts["plain"] = nn.LayerNorm(6, elementwise_affine=False)
    kinds = check(Lambda(norms, **parts, scale=nn.Parameter(torch.rand(6))), STEPS, opset)
    assert sorted(kinds) == [
        *("BatchNormalization", "LayerNormalization", "LayerNormalization"),
        *("RMSNormalization", "UnitNormalization"),
    ]


@pytest.mark.parametrize("opset", OPSETS)
def test_look_ups_and_means(opset: int) -> None:
    kinds = check(Lambda(masked, e=nn.Embedding(20, 8)), ids(3, 5), opset)
    assert kinds == ["EmbeddingBag"]
    kinds = check(Lambda(pooled, e=nn.Embedding(20, 8)), ids(3, 5), opset)
    pools = ["GlobalAveragePooling1D", "GlobalMaxPooling1D"]
    assert sorted(kinds) == sorted(["Embedding", "EmbeddingBag", "Flatten", *pools])


@pytest.mark.parametrize("opset", [11, 20])
def test_products_and_shapes(opset: int) -> None:
    def forward(self: Any, x: Tensor, y: Tensor) -> Any:
        stacked = torch.stack([x, y], 1)
        return (
            torch.cat([self.l(x).view(x.size(0), -1), y], 1),
            (x * y).sum(1, keepdim=True),
            stacked @ stacked.transpose(1, 2),
            F.normalize(x) * 3 + 1,
            self.deep(stacked),
        )

    check(Lambda(forward, l=nn.Linear(6, 4), deep=nn.Linear(6, 3)), (X, X + 1), opset)


def test_a_bag_of_pytorch_points_to_from_torch() -> None:
    with pytest.raises(tl.ModelImportError, match="by from_torch"):
        tl.from_onnx(exported(nn.EmbeddingBag(20, 3), ids(3, 5), 17))
