"""Networks with modules of `tvmlayers.torch`: layers replaced in place, graphs and importers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402 - skipped without torch
from torch.utils.data import DataLoader, Dataset  # noqa: E402 - skipped without torch

import tvmlayers.torch as tt  # noqa: E402 - skipped without torch

GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(0, 50, (4, 6), generator=GENERATOR)


def normal(*shape: int) -> Any:
    return torch.randn(*shape, generator=GENERATOR)


@torch.no_grad()
def call(module: Any, *inputs: Any) -> Any:
    return module(*inputs)


def test_replaced_layers_keep_objects_ties_and_hooks() -> None:
    class Own(nn.Linear):
        pass

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.bag = nn.Embedding(50, 16), nn.EmbeddingBag(50, 16, mode="sum")
            self.again = self.hidden = nn.Linear(16, 16)
            self.own, self.head = Own(16, 16), nn.Linear(16, 50, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: Any) -> Any:
            rows = self.table(ids).mean(1) + self.bag(ids)
            return self.head(self.own(self.again(self.hidden(rows))))

    net = Net()
    seen: list[str] = []
    net.hidden.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    names, reference = list(net.state_dict()), copy.deepcopy(net)
    report = tt.replace_layers(net)
    assert report.replaced == {
        "Embedding": ["table"],
        "EmbeddingBag": ["bag"],
        "Linear": ["again", "head"],
    }
    assert list(report.left) == ["own"]
    assert "class of its own" in str(report)
    assert net.head.weight is net.table.weight
    assert list(net.state_dict()) == names
    seen.clear()
    for _ in range(2):
        torch.testing.assert_close(call(net, IDS), call(reference, IDS))
        net(IDS).square().mean().backward()
        optimizer.step()
        reference.load_state_dict(net.state_dict())
    assert set(seen) == {"Linear"}
    assert net.hidden._packed is not None
    assert tt.replace_layers(net).replaced == {}
    with pytest.raises(tl.TargetError):
        tt.replace_layers(reference, "neoverse-n1")
    assert type(reference.hidden) is nn.Linear


def test_a_transformer_with_replaced_layers_computes_the_same() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    reference, x = copy.deepcopy(layer), normal(2, 5, 16)
    report = tt.replace_layers(layer)
    assert report.replaced == {"Linear": ["linear1", "linear2"]}
    assert list(report.left) == ["self_attn.out_proj"]
    torch.testing.assert_close(call(layer, x), call(reference, x))


def test_an_average_of_weights_is_followed() -> None:
    linear, x = tt.Linear(9, 6), normal(5, 9)
    decay = torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    average = torch.optim.swa_utils.AveragedModel(linear, multi_avg_fn=decay)
    for _ in range(3):
        with torch.no_grad():
            linear.weight.add_(1)
        average.update_parameters(linear)
        weight, bias = average.module.weight, average.module.bias
        torch.testing.assert_close(call(average, x), x @ weight.detach().T + bias.detach())


@pytest.mark.parametrize("kind", ["fused", "foreach"])
def test_steps_of_every_kind_of_optimizer_are_noticed(kind: str) -> None:
    linear, x = tt.Linear(9, 6), normal(5, 9)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.5, **{kind: True})
    for _ in range(3):
        wanted = nn.functional.linear(x, linear.weight, linear.bias)
        torch.testing.assert_close(call(linear, x), wanted.detach())
        linear(x).sum().backward()
        optimizer.step()


class Rows(Dataset):
    def __init__(self) -> None:
        self.table, self.linear = tt.Embedding.from_pretrained(normal(50, 8)), tt.Linear(8, 3)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, place: int) -> Any:
        return call(self.linear, call(self.table, IDS[place % 4]))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # on a single CPU
def test_workers_of_a_data_loader_call_modules() -> None:
    rows = Rows()
    wanted = [batch.clone() for batch in DataLoader(rows, batch_size=4)]
    for got, batch in zip(DataLoader(rows, batch_size=4, num_workers=2), wanted, strict=True):
        assert torch.equal(got, batch)


def _network() -> Any:
    return nn.Sequential(
        tt.Embedding(50, 8), nn.Flatten(), tt.Linear(48, 16, activation="relu"), tt.Linear(16, 3)
    )


def test_a_compiled_or_exported_graph_holds_the_operators() -> None:
    network = _network()
    wanted = call(network, IDS)
    graphs: list[Any] = []

    def backend(module: Any, _inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    compiled = torch.compile(network, backend=backend, fullgraph=True, dynamic=True)
    for batch in (4, 3, 2):
        ids = IDS[:batch].clone()  # a view would be compiled with its base
        assert torch.equal(call(compiled, ids), call(network, ids))
    assert len(graphs) == 1
    assert "tvmlayers.linear" in graphs[0].code
    with torch.no_grad():
        program = torch.export.export(network, (IDS,))
        network[2].weight.mul_(2)
        assert torch.equal(program.module()(IDS), network(IDS))
    assert not torch.equal(call(network, IDS), wanted)
    assert compiled(IDS).requires_grad


def test_operators_are_registered_as_pytorch_asks() -> None:
    arguments = {
        "linear": (normal(5, 9), normal(6, 9), normal(6), "gelu", "native"),
        "embedding": (IDS, normal(50, 8), "native"),
        "embedding_bag": (IDS, normal(50, 8), None, normal(4, 6), "sum", False, None, "native"),
    }
    for name, given in arguments.items():
        for value in given:
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                value.requires_grad_()
        torch.library.opcheck(getattr(torch.ops.tvmlayers, name).default, given)


def test_from_torch_reads_the_modules() -> None:
    network = _network()
    compiled = tl.compile(tl.from_torch(network, IDS))
    np.testing.assert_allclose(compiled(IDS), call(network, IDS), atol=1e-5)
    bags = tt.EmbeddingBag(50, 8, mode="sum")
    pool = tl.compile(
        tl.from_torch(bags, {"input": IDS.flatten(), "offsets": torch.tensor([0, 5])})
    )
    flat, offsets = IDS.flatten(), torch.tensor([0, 2, 9])
    torch.testing.assert_close(pool(flat, offsets), call(bags, flat, offsets))
