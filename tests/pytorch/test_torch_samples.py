"""PyTorch's own sample inputs of what our modules stand for, through them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import tvmlayers as tl
import tvmlayers.torch as tt

pytest.importorskip("expecttest", reason="PyTorch's own samples need the package expecttest")

pytestmark = pytest.mark.filterwarnings("ignore")  # those of PyTorch's samples


@pytest.fixture(scope="module")
def samples() -> dict[str, list[Any]]:
    """By operator."""
    from torch.testing._internal.common_methods_invocations import op_db

    wanted = ("embedding", "embedding_bag", "layer_norm", "linear")
    found = {op.name.removeprefix("nn.functional."): op for op in op_db}
    return {
        name: list(found[name].sample_inputs("cpu", torch.float32, requires_grad=False))
        for name in wanted
    }


def with_weight(module: Any, **tensors: Tensor | None) -> Any:
    for name, value in tensors.items():
        module.register_parameter(name, None if value is None else torch.nn.Parameter(value))
    return module


def check(module: Any, wanted: Any, *given: Any) -> None:
    """Equal results, or an error of the same class."""
    with torch.no_grad():
        try:
            expected = wanted()
        except Exception as error:
            with pytest.raises(type(error)):
                module(*given)
            return
        torch.testing.assert_close(module(*given), expected)


def test_linear(samples: dict[str, list[Any]]) -> None:
    assert len(samples["linear"]) > 10
    for sample in samples["linear"]:
        x, (weight, *bias) = sample.input, sample.args
        shift = bias[0] if bias else None
        module = with_weight(tt.Linear(1, 1), weight=weight, bias=shift)
        check(module, lambda x=x, w=weight, b=shift: functional.linear(x, w, b), x)


def test_embedding(samples: dict[str, list[Any]]) -> None:
    assert len(samples["embedding"]) > 5
    for sample in samples["embedding"]:
        table, (indices,) = sample.input, sample.args
        options = {name: value for name, value in sample.kwargs.items() if name != "weight"}
        module = with_weight(tt.Embedding(*table.shape, **options), weight=table.clone())
        wanted = functional.embedding(indices, table.clone(), **options)
        check(module, lambda wanted=wanted: wanted, indices)


def test_embedding_bag(samples: dict[str, list[Any]]) -> None:
    assert len(samples["embedding_bag"]) > 20
    for sample in samples["embedding_bag"][::5]:  # each is of a form of its own, to be compiled
        table, (indices,), given = sample.input, sample.args, dict(sample.kwargs)
        offsets, factors = given.pop("offsets", None), given.pop("per_sample_weights", None)
        module = with_weight(tt.EmbeddingBag(*table.shape, **given), weight=table.clone())
        wanted = functional.embedding_bag(
            indices, table.clone(), offsets, per_sample_weights=factors, **given
        )
        check(module, lambda wanted=wanted: wanted, indices, offsets, factors)


def test_layer_norm_is_imported(samples: dict[str, list[Any]]) -> None:
    """The samples that normalise over the last axes of a batch; others are refused by name."""

    class Module(torch.nn.Module):
        def __init__(self, args: Any, options: Any) -> None:
            super().__init__()
            self.args, self.options = args, options

        def forward(self, x: Tensor) -> Tensor:
            return functional.layer_norm(x, *self.args, **self.options)

    imported, refused = 0, []
    for sample in samples["layer_norm"]:
        x, args = sample.input, sample.args
        module = Module(args, sample.kwargs)
        try:
            model = tl.from_torch(module, x)
        except (tl.ModelImportError, tl.ConfigError) as error:
            has_no_batch = x.ndim == len(args[0]) or x.shape[0] < 2 or 0 in x.shape
            refused.append(has_no_batch or "epsilon" in str(error))
            continue
        imported += 1
        torch.testing.assert_close(tl.compile(model)(x), module(x))
    assert imported
    assert all(refused)
