"""`from_torch`: what PyTorch's modules compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_modules import STEPS, Lambda, X, check, ids

import tvmlayers as tl

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "celu": F.celu,
    "clamp": lambda x: x.clamp(min=0),
    "elu": F.elu,
    "exp": torch.exp,
    "gelu": F.gelu,
    "gelu_tanh": nn.GELU("tanh"),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardtanh": nn.Hardtanh(0.0, 6.0),
    "leaky_relu": nn.LeakyReLU(0.2),
    "log_softmax": nn.LogSoftmax(1),
    "mish": F.mish,
    "relu": F.relu,
    "relu6": F.relu6,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "silu_written_out": lambda x: x * x.sigmoid(),
    "softmax": nn.Softmax(-1),
    "softplus": F.softplus,
    "softsign": F.softsign,
    "tanh": torch.tanh,
}


def test_activations() -> None:
    functions = list(ACTIVATIONS.values())
    check(Lambda(lambda _, x: [function(x) for function in functions]), X)


def test_an_argument_that_nothing_uses_is_taken_where_an_input_can_be_it() -> None:
    class Unused(nn.Linear):
        def forward(self, ids: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return super().forward(x)

    module = Unused(6, 4)
    model = check(module, (ids(3, 7), X))
    assert model.input_shape == [(None, 7), (None, 6)]
    assert [tensor.name for tensor in model.inputs] == ["ids", "x"]
    example = {"ids": ids(3), "x": X, "mask": torch.ones(3, 6) > 0}
    assert [tensor.name for tensor in tl.from_torch(module, example).inputs] == ["ids", "x"]


def test_float64_stays_float64() -> None:
    model = check(nn.Sequential(nn.Linear(6, 4), nn.Tanh()).double(), X.double())
    assert model.weights["0/kernel"].dtype == np.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_stay_halves(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 2)).to(dtype)
    compiled = tl.compile(tl.from_torch(module))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert compiled(x).dtype == dtype
    wanted = module.double()(x.double())
    assert (compiled(x).double() - wanted).abs().max() <= 4 * torch.finfo(dtype).eps


def test_linear_keeps_its_weights_bit_by_bit_and_its_name() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        module[0].weight[0, 0] = float("nan")
        module[0].bias[0] = -0.0
    model = tl.from_torch(module)  # a module that begins with Linear needs no example
    assert list(model.weights) == ["0/kernel", "0/bias", "2/kernel"]
    kernel, bias, last = model.weights.values()
    assert kernel.tobytes() == module[0].weight.detach().numpy().T.tobytes()
    assert bias.tobytes() == module[0].bias.detach().numpy().tobytes()
    assert last.tobytes() == module[2].weight.detach().numpy().T.tobytes()


def test_products_with_a_constant_matrix_are_dense_layers() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        added = torch.addmm(self.shift, x, self.matrix)
        return x @ self.matrix, x @ self.matrix + 0.5, x @ self.matrix - self.shift, added

    parts = {"matrix": nn.Parameter(torch.randn(6, 4)), "shift": nn.Parameter(torch.randn(4))}
    model = check(Lambda(forward, **parts), X)
    assert "matrix" in {layer.name for layer in model.layers}
    assert all(isinstance(layer, tl.Dense) for layer in model.layers)
    check(Lambda(lambda self, x: x @ self.vector, vector=nn.Parameter(torch.randn(6))), X)
    check(Lambda(lambda self, x: F.linear(x, self.w * 2), w=nn.Parameter(torch.randn(3, 6))), X)


def test_a_module_used_twice_is_one_layer() -> None:
    def forward(self: Any, x: Tensor, y: Tensor) -> Any:
        return self.act(self.tower(x)), self.act(self.tower(y))

    model = check(Lambda(forward, tower=nn.Linear(6, 4), act=nn.Tanh()), (X, X))
    assert [layer.name for layer in model.layers] == ["tower", "act"]


def test_parameters_tied_between_modules_are_one_layer() -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight, second.bias = first.weight, first.bias
    assert len(check(nn.Sequential(first, second), X).layers) == 1


def test_modules_of_one_name_in_different_parents_are_two_layers() -> None:
    def tower() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 6), nn.ReLU())

    model = check(nn.Sequential(tower(), tower()), X)
    assert [layer.name for layer in model.layers] == ["0.0", "0.1", "1.0", "1.1"]


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [None, 3])
def test_two_dimensional_bags(mode: str, padding_idx: int | None) -> None:
    bag = nn.EmbeddingBag(20, 8, mode=mode, padding_idx=padding_idx)
    model = check(bag, ids(3, 5))
    (layer,) = model.layers
    assert isinstance(layer, tl.EmbeddingBag)
    assert (layer.mode, layer.padding_idx) == (mode, padding_idx)


@pytest.mark.parametrize("has_last", [False, True])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_with_offsets(mode: str, has_last: bool) -> None:
    bag = nn.EmbeddingBag(20, 8, mode=mode, include_last_offset=has_last)
    check(bag, (ids(7), torch.tensor([0, 2, 7])))
    # As many indices as offsets: the two axes are no batch all the same.
    check(bag, (ids(3), torch.tensor([0, 2, 3])))


def test_bags_with_sample_weights() -> None:
    bag = nn.EmbeddingBag(20, 8, mode="sum")
    ragged = Lambda(lambda self, i, o, w: self.bag(i, o, w), bag=bag)
    check(ragged, (ids(7), torch.tensor([0, 2, 2]), torch.rand(7)))
    even = Lambda(lambda self, i, w: self.bag(i, per_sample_weights=w), bag=bag)
    check(even, (ids(3, 5), torch.rand(3, 5)))
    table = nn.Embedding(20, 8)
    written = Lambda(lambda self, i, w: (self.e(i) * w.unsqueeze(-1)).sum(1), e=table)
    model = check(written, (ids(3, 5), torch.rand(3, 5)))
    assert [layer.kind for layer in model.layers] == ["EmbeddingBag"]


@pytest.mark.parametrize(
    "pool",
    [
        lambda e: e.mean(1),
        lambda e: e.mean(-2, keepdim=True),
        lambda e: e.sum(1),
        lambda e: e.sum(dim=(1,), keepdim=True),
        lambda e: e.amax(1),
        lambda e: e.amin(1),
        lambda e: e.max(1).values,
        lambda e: e.min(dim=1, keepdim=True)[0],
        lambda e: e.flatten(1),
        lambda e: e.view(e.shape[0], -1),
        lambda e: e.reshape(-1, 40),
        lambda e: e.unsqueeze(1).squeeze(1).unflatten(1, (5, 1)),
    ],
)
def test_embedding_and_what_becomes_of_its_rows(pool: Callable[[Tensor], Tensor]) -> None:
    check(Lambda(lambda self, i: pool(self.e(i)), e=nn.Embedding(20, 8)), ids(3, 5))


def test_a_bag_without_an_example_takes_any_length() -> None:
    model = check(nn.Sequential(nn.EmbeddingBag(20, 8), nn.Linear(8, 3)), None)
    assert model.input_shape == (None, None)


def test_the_mean_of_a_free_length() -> None:
    module = Lambda(lambda self, i: self.e(i).mean(1), e=nn.Embedding(20, 8))
    auto = torch.export.Dim.AUTO
    model = check(module, ids(3, 5), dynamic_shapes={"inputs": ({0: auto, 1: auto},)})
    assert model.input_shape == (None, None)


@pytest.mark.parametrize(
    "product",
    [
        lambda x, y: (x * y).sum(-1),
        lambda x, y: (x * y).sum(1, keepdim=True),
        lambda x, y: torch.einsum("bd,bd->b", x, y),
        lambda x, y: torch.linalg.vecdot(x, y),
        lambda x, y: torch.bmm(x.unsqueeze(1), y.unsqueeze(2)).flatten(1),
        lambda x, y: x.view(-1, 2, 3) @ y.view(-1, 3, 2),
        lambda x, y: x.view(-1, 2, 3) @ y.view(-1, 2, 3).transpose(1, 2),
        lambda x, y: x.view(-1, 2, 3).mT @ y.view(-1, 2, 3),
        lambda x, y: torch.einsum("bid,bjd->bij", x.view(-1, 3, 2), y.view(-1, 3, 2)),
        lambda x, y: torch.einsum("b i d, b d j -> b i j", x.view(-1, 3, 2), y.view(-1, 2, 3)),
    ],
)
def test_products_of_two_towers(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    check(Lambda(lambda _, x, y: product(x, y)), (X, X))


def test_the_interaction_of_dlrm() -> None:
    class Dlrm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = nn.ModuleList(nn.EmbeddingBag(20, 4, mode="sum") for _ in range(2))
            self.bottom = nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace=True))
            row, column = torch.tril_indices(3, 3, offset=-1)
            self.register_buffer("row", row)
            self.register_buffer("column", column)
            self.top = nn.Linear(7, 1)

        def forward(self, x: Tensor, one: Tensor, two: Tensor) -> Tensor:
            dense = self.bottom(x)
            t = torch.stack([dense, self.tables[0](one), self.tables[1](two)], 1)
            q = torch.bmm(t, t.transpose(1, 2))
            pairs = q[:, self.row, self.column]
            return torch.sigmoid(self.top(torch.cat([dense, pairs], 1)))

    model = check(Dlrm(), (X, ids(3, 5), ids(3, 2)))
    assert [type(layer) for layer in model.layers].count(tl.DotInteraction) == 1
    assert "tables.1/embeddings" in model.weights


def test_in_place_operators_change_what_comes_after_them() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        hidden = self.a(x)
        view = hidden.view(-1, 2, 2)
        hidden.relu_()
        return view.flatten(1), hidden.tanh_()

    check(Lambda(forward, a=nn.Linear(6, 4)), X)


def test_dropout_goes_and_the_module_keeps_its_mode() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5))
    module[1].train()
    module[0].eval()
    model = tl.from_torch(module)
    assert [layer.name for layer in model.layers] == ["0"]
    assert (module.training, module[0].training, module[1].training) == (True, False, True)


def test_inputs_bear_the_names_of_forward() -> None:
    class Named(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return torch.cat([left, right], -1)

    model = tl.from_torch(Named(), {"right": X, "left": X})
    assert sorted(tensor.name for tensor in model.inputs) == ["left", "right"]


def test_one_sample_is_example_enough() -> None:
    check(nn.Sequential(nn.Linear(6, 4)), X[:1])
    check(nn.Sequential(nn.Linear(6, 4)), X[:1].numpy())


def test_exported_programs_and_pt2_files(tmp_path: Path) -> None:
    module = nn.Sequential(nn.EmbeddingBag(20, 8), nn.Linear(8, 3), nn.ReLU(inplace=True)).eval()
    program = torch.export.export(module, (ids(3, 5),))  # its batch is fixed
    path = tmp_path / "tagger.pt2"
    torch.export.save(program, path)
    for given in (program, path, str(path)):
        model = tl.from_torch(given)
        assert tl.verify(tl.compile(model), against=module, samples=(1, 5)).ok
        assert list(model.weights) == ["0/embeddings", "1/kernel", "1/bias"]
    assert model.name == "tagger"
    assert tl.verify(tl.compile(model), against=program, inputs=ids(3, 5)).ok


def settled(norm: Any) -> Any:
    """A batch norm whose statistics and weights are not those that it begins with."""
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    return norm


NORMS: dict[str, tuple[Any, Tensor]] = {
    "layer_norm": (nn.LayerNorm(6), X),
    "layer_norm_plain": (nn.LayerNorm((4, 6), eps=0.1, elementwise_affine=False), STEPS),
    "layer_norm_without_bias": (nn.LayerNorm(6, bias=False), STEPS),
    "rms_norm": (nn.RMSNorm(6), STEPS),
    "rms_norm_plain": (nn.RMSNorm((4, 6), eps=0.1, elementwise_affine=False), STEPS),
    "batch_norm": (settled(nn.BatchNorm1d(6)), X),
    "batch_norm_of_channels": (settled(nn.BatchNorm1d(4)), STEPS),
    "batch_norm_plain": (settled(nn.BatchNorm1d(6, affine=False)), X),
    "prelu": (nn.PReLU(), STEPS),
    "prelu_of_channels": (nn.PReLU(4, 0.3), STEPS),
    "prelu_of_features": (nn.PReLU(6, 0.3), X),
    "leaky_relu": (nn.LeakyReLU(0.01), X),
    "elu": (nn.ELU(2.0), X),
}


@pytest.mark.parametrize("name", NORMS)
def test_normalisations_and_slopes(name: str) -> None:
    module, example = NORMS[name]
    assert len(check(module, example).layers) == 1


def test_merges_of_tensors_and_constants() -> None:
    def forward(self: Any, x: Tensor, y: Tensor) -> Any:
        merged = x + y, x - y, x * y, torch.maximum(x, y), torch.minimum(x, y)
        numbers = x + 1, 1 - x, x * 2.5, x / 3, x - 0.5, 2 - self.w * x, x + self.row
        return *merged, *numbers, x.unsqueeze(1) * torch.stack([x, y], 1)

    w, row = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(1, 6))
    model = check(Lambda(forward, w=w, row=row), (X, X))
    kinds = [layer.kind for layer in model.layers]
    assert kinds.count("Rescaling") == 8
    assert {"Add", "Subtract", "Multiply", "Maximum", "Minimum"} <= set(kinds)


def test_a_transformers_feed_forward_block() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.norm(x + self.down(F.gelu(self.up(x))))

    parts = {"up": nn.Linear(6, 9), "down": nn.Linear(9, 6), "norm": nn.LayerNorm(6)}
    model = check(Lambda(forward, **parts), STEPS)
    assert "norm/gamma" in model.weights
    kinds = [row["kind"] for row in tl.compile(model).report()]
    assert kinds == ["dense", "dense", "normalization"]


def test_the_largest_over_time() -> None:
    pools = Lambda(lambda _, x: (x.amax(1), x.max(1).values, x.amax(1, keepdim=True)))
    assert [layer.kind for layer in check(pools, STEPS).layers].count("GlobalMaxPooling1D") == 3
