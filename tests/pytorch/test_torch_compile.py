"""`torch.compile` with the backend of `tvmlayers`: what is taken, what is left, what is noticed."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tvmlayers as tl
from tvmlayers.testing import Reference, Rounding, compare

torch = pytest.importorskip("torch")  # before what cannot be imported without it
from torch import nn  # noqa: E402 - skipped without torch

import tvmlayers.torch as tt  # noqa: E402 - skipped without torch
from tvmlayers.torch import compiling, part  # noqa: E402 - skipped without torch

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = (5, 2, 9, 33)


def ids(batch: int, length: int = 6) -> Any:
    return torch.randint(0, 50, (batch, length), generator=GENERATOR)


class TwoTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(50, 8), nn.Embedding(50, 8)
        self.tower = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, user: Any, item: Any) -> Any:
        return (self.tower(self.users(user)) * self.tower(self.items(item))).sum(-1)


def seed() -> Any:
    return nn.Sequential(
        nn.Embedding(50, 8), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 5)
    )


def text() -> Any:
    return nn.Sequential(nn.EmbeddingBag(50, 8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3))


NETWORKS: dict[str, tuple[Callable[[], Any], Callable[[int], tuple[Any, ...]]]] = {
    "seed": (seed, lambda batch: (ids(batch),)),
    "text": (text, lambda batch: (ids(batch, 11),)),
    "two tower": (
        TwoTower,
        lambda batch: (ids(batch, 1)[:, 0].clone(), ids(batch, 1)[:, 0].clone()),
    ),
}


class Backend:
    """The backend, with what it took of each graph."""

    def __init__(self, **options: str) -> None:
        self.options = compiling.Options(**options)
        self.graphs: list[compiling.Taken] = []

    def __call__(self, graph: Any, inputs: Any) -> Any:
        run, taken = compiling.compile_graph(graph, inputs, self.options)
        self.graphs.append(taken)
        return run

    @property
    def parts(self) -> list[Any]:
        return [each for taken in self.graphs for each in taken.parts]


@pytest.fixture(autouse=True)
def forgets() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def agrees(got: Any, network: Any, *inputs: Any) -> None:
    """AssertionError unless a result is that of float64, but for what rounding can amount to."""
    (want,) = Reference(tl.from_torch(network, inputs))(*(each.numpy() for each in inputs))
    difference = compare(got.detach().numpy(), want, Rounding.of("float32"))
    assert difference.is_rounding, difference


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_network_is_one_part_for_every_batch(name: str) -> None:
    make, inputs = NETWORKS[name]
    network, backend = make(), Backend()
    compiled = torch.compile(network, backend=backend, fullgraph=True, dynamic=True)
    for batch in BATCHES:
        given = inputs(batch)
        with torch.no_grad():
            agrees(compiled(*given), network, *given)
    (taken,) = backend.graphs
    (only,) = taken.parts
    assert taken.left == []
    assert only.why is None
    assert only._model is not None


def test_a_graph_of_fixed_shape_takes_the_machine_code_that_is_there() -> None:
    network, backend = seed(), Backend()
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    part._codes.clear()
    for batch in (1, *BATCHES):
        given = ids(batch)
        with torch.no_grad():
            agrees(compiled(given), network, given)
    assert len(backend.graphs) > 1
    assert all(each.why is None for each in backend.parts)
    assert len(part._codes) == 1


def _changes() -> dict[str, Callable[[Any], object]]:
    return {
        "in place": lambda net: net[2].weight.mul_(2),
        "table": lambda net: net[0].weight.mul_(2),
        "state dict": lambda net: net.load_state_dict(seed().state_dict()),
        "through data": lambda net: net[2].weight.data.mul_(2),
        "data": lambda net: setattr(net[4].weight, "data", torch.ones(5, 16)),
        "parameter": lambda net: setattr(net[4], "weight", nn.Parameter(torch.ones(5, 16))),
    }


@pytest.mark.parametrize("change", _changes())
def test_changed_weights_are_noticed(change: str) -> None:
    network, given = seed(), ids(5)
    compiled = torch.compile(network, backend=Backend(), fullgraph=True, dynamic=True)
    with torch.no_grad():
        agrees(compiled(given), network, given)
        _changes()[change](network)
        for _ in range(2):
            agrees(compiled(given), network, given)


def test_training_is_pytorchs_and_evaluation_compiled() -> None:
    network, given, backend = seed(), ids(5), Backend()
    compiled = torch.compile(network, backend=backend, dynamic=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(3):
        reference = copy.deepcopy(network)
        optimizer.zero_grad()
        compiled(given).square().sum().backward()
        reference(given).square().sum().backward()
        for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
        optimizer.step()
        with torch.inference_mode():
            agrees(compiled(given), network, given)
    assert [len(taken.parts) for taken in backend.graphs] == [0, 1]
    assert "autograd follows it" in str(backend.graphs[0].left[0])


class Mixed(nn.Module):
    """Layers with operators between them that are not ours."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden = nn.Embedding(50, 8), nn.Linear(48, 16)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 50)
        self.tied = nn.Linear(8, 50, bias=False)
        self.tied.weight = self.table.weight
        self.register_buffer("scale", torch.full((50,), 0.5))

    def forward(self, x: Any, shift: Any = None) -> dict[str, Any]:
        rows = self.table(x)
        hidden = torch.relu_(self.hidden(rows.flatten(1)))
        hidden = self.norm(hidden).sin()
        scores = self.head(hidden) + self.tied(rows).amax(1) * self.scale
        return {"scores": scores.softmax(-1), "rows": rows, "first": x[:, 0], "hidden": hidden}


@pytest.mark.parametrize("rest", ["eager", "inductor"])
def test_the_largest_parts_of_a_mixed_network_are_taken(rest: str) -> None:
    network, backend = Mixed().eval(), Backend(rest=rest)
    compiled = torch.compile(network, backend=backend, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for batch in BATCHES:
            given = ids(batch)
            torch.testing.assert_close(compiled(given), network(given))
        network.table.weight.mul_(2)
        torch.testing.assert_close(compiled(given), network(given))
    assert [each.why for each in backend.parts] == [None, None]
    first, second = backend.parts
    assert {"table", "hidden"} <= set(first.layers)
    assert second.layers == ["head", "add", "softmax"]
    (taken,) = backend.graphs
    left = [problem.part for problem in taken.left]
    assert "sin" in left
    assert "mul" in left  # its factor comes with each call


def test_what_a_call_gets_wrong_is_pytorchs_error() -> None:
    network = seed()
    compiled = torch.compile(network, backend=Backend(), dynamic=True)
    with torch.no_grad():
        compiled(ids(5))
        with pytest.raises(IndexError, match="out of range in self"):
            compiled(torch.full((5, 6), 50))


def test_inputs_may_be_views_and_of_other_strides() -> None:
    network = nn.Sequential(nn.Linear(6, 9), nn.Tanh())
    compiled = torch.compile(network, backend=Backend(), dynamic=True)
    with torch.no_grad():
        for x in (torch.randn(6, 5).T, torch.randn(9, 12)[2:, ::2], torch.randn(3, 4, 6)):
            torch.testing.assert_close(compiled(x), network(x))


def test_a_tensor_that_is_changed_leaves_the_graph_to_pytorch() -> None:
    linear, backend = nn.Linear(6, 6), Backend()

    def forward(x: Any) -> Any:
        x.add_(1)
        return linear(x)

    compiled = torch.compile(forward, backend=backend)
    x, y = torch.zeros(2, 6), torch.zeros(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), forward(y))
    assert torch.equal(x, y)
    assert backend.parts == []
    assert "changes a tensor" in str(backend.graphs[0].left[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_of_halves_are_compiled(dtype: torch.dtype) -> None:
    network = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).to(dtype)
    x, backend = torch.randn(4, 6).to(dtype), Backend()
    compiled = torch.compile(network, backend=backend)
    with torch.no_grad():
        found, wanted = compiled(x), network.double()(x.double())
    assert found.dtype == dtype
    # Each layer rounds once; sums of magnitudes stay below 8.
    atol = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=atol)
    assert all(each.why is None for each in backend.parts)


def test_weights_that_move_into_shared_memory_are_pytorchs_from_then_on() -> None:
    network, x = seed(), ids(3)
    backend = Backend()
    compiled = torch.compile(network, backend=backend, fullgraph=True, dynamic=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(x))
        network.share_memory()
        for value in (0.5, 0.25):
            network[2].weight.data.fill_(value)  # which no version counter tells
            torch.testing.assert_close(compiled(x), network(x))


def test_a_graph_that_is_one_part_is_called_without_its_own_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unused(*arguments: object) -> None:
        raise AssertionError("the graph's own code ran")

    seen: list[Any] = []
    made = compiling.partitioned

    def remembered(graph: Any, target: str) -> Any:
        seen.append(made(graph, target))
        seen[-1].graph.forward = unused
        return seen[-1]

    monkeypatch.setattr(compiling, "partitioned", remembered)
    network, x = seed(), ids(3)
    compiled = torch.compile(network, backend=tt.backend, fullgraph=True, dynamic=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(x))
    assert len(seen) == 1


@pytest.mark.parametrize("change", ["share_memory", "autocast"])
def test_networks_that_compiled_code_does_not_take_are_pytorchs(change: str) -> None:
    network = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    x = torch.randn(4, 6)
    if change != "autocast":
        getattr(network, change)()
    backend = Backend()
    compiled = torch.compile(network, backend=backend)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"):
        assert torch.equal(compiled(x), network(x))
    assert all(each.why is not None for each in backend.parts)


@pytest.mark.parametrize("weight", [torch.ones(1).expand(6, 6), torch.randn(6, 12)[:, ::2]])
def test_weights_of_other_strides_are_right(weight: Any) -> None:
    network, x = nn.Sequential(nn.Linear(6, 6)), torch.randn(4, 6)
    network[0].weight = nn.Parameter(weight, requires_grad=False)
    network.requires_grad_(False)
    compiled = torch.compile(network, backend=Backend())
    modules = tt.Linear(6, 6)
    modules.weight, modules.bias = network[0].weight, network[0].bias
    for _ in range(2):
        torch.testing.assert_close(compiled(x), network(x))
        torch.testing.assert_close(modules(x), network(x))


def test_a_length_that_others_use_is_given_to_a_part() -> None:
    linear, backend = nn.Linear(6, 6).requires_grad_(False), Backend()

    def forward(x: Any) -> Any:
        y = linear(x)
        rows = y.shape[0]
        return linear(y.view(rows, -1)) + torch.arange(rows).sin().unsqueeze(1)

    compiled = torch.compile(forward, backend=backend, fullgraph=True, dynamic=True)
    for batch in BATCHES:
        x = torch.randn(batch, 6)
        torch.testing.assert_close(compiled(x), forward(x))
    assert [each.why for each in backend.parts] == [None]


@pytest.mark.parametrize("switch", [torch.enable_grad, lambda: torch.autocast("cpu")])
def test_what_is_switched_inside_of_a_graph_is_pytorchs(switch: Any) -> None:
    linear, x, backend = nn.Linear(6, 6), torch.randn(4, 6), Backend()

    def forward(x: Any) -> Any:
        with switch():
            y = linear(x)
        return y, linear(x)

    compiled = torch.compile(forward, backend=backend, fullgraph=True)
    with torch.no_grad():
        for got, wanted in zip(compiled(x), forward(x), strict=True):
            assert torch.equal(got, wanted)
            assert (got.dtype, got.requires_grad) == (wanted.dtype, wanted.requires_grad)
    assert backend.parts == []


def test_modules_of_ours_are_taken_into_larger_parts() -> None:
    network = nn.Sequential(
        tt.Embedding(50, 8), nn.Flatten(), tt.Linear(48, 16, activation="relu"), nn.Linear(16, 3)
    )
    backend = Backend()
    compiled = torch.compile(network, backend=backend, fullgraph=True, dynamic=True)
    given = ids(4)
    with torch.no_grad():
        agrees(compiled(given), network, given)
    (only,) = backend.parts
    assert only.why is None
    assert "tvmlayers::linear" in only.operators


def test_threads_call_a_compiled_network_while_weights_change() -> None:
    network, x = nn.Sequential(nn.Linear(16, 16, bias=False)), torch.ones(3, 16)
    compiled = torch.compile(network, backend=Backend(), dynamic=True)
    wrong: list[Any] = []
    done = threading.Event()
    tables = [torch.full((16, 16), value) for value in (1.0, 2.0)]

    def work() -> None:
        while not done.is_set():
            with torch.no_grad():
                got = compiled(x)
            if not all(float(value) in (16.0, 32.0) for value in got.unique()):
                wrong.append(got)

    with torch.no_grad():
        network[0].weight.data = tables[0]
        compiled(x)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(50):
        network[0].weight.data = tables[turn % 2]
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rest": "slow"}, r'options\["rest"\] is one of eager, inductor'),
        ({"rast": "eager"}, r"has the options rest and target, got \['rast'\]"),
        ({"target": "neoverse-n1"}, "modules of PyTorch run on this machine"),
    ],
)
def test_options_are_checked(options: dict[str, str], message: str) -> None:
    compiled = torch.compile(nn.Linear(3, 3), backend=tt.backend, options=options)
    with torch.no_grad(), pytest.raises(Exception, match=message):
        compiled(torch.ones(2, 3))


def test_explain_says_what_is_taken_and_what_is_left_and_why() -> None:
    found = tt.explain(Mixed().eval(), ids(4))
    assert found.graphs == 1
    assert found.taken[1] == ["head", "add", "softmax"]
    (why,) = [line for line in found.left if line.startswith("sin")]
    assert "test_torch_compile.py" in why
    assert why.endswith("no layer here computes it")
    assert str(found).startswith("1 graph\ntaken: table")
    whole = tt.explain(TwoTower(), {"user": ids(4, 1)[:, 0], "item": ids(4, 1)[:, 0]})
    assert whole.left == []
    training = tt.explain(nn.Sequential(nn.Linear(3, 3), nn.Dropout()), torch.ones(4, 3))
    assert "training mode" in str(training)
