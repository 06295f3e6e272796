"""Modules of `tvmlayers.torch`: PyTorch's in everything, computed by compiled code where it can."""

from __future__ import annotations

import copy
import gc
import io
import multiprocessing
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import tvmlayers as tl

torch = pytest.importorskip("torch")  # before what cannot be imported without it
from torch import nn  # noqa: E402 - skipped without torch

import tvmlayers.torch as tt  # noqa: E402 - skipped without torch
from tvmlayers.layers.activations import NAMES  # noqa: E402 - skipped without torch
from tvmlayers.testing.activations import steps  # noqa: E402 - skipped without torch
from tvmlayers.testing.bounds import Bounded, Rounding, compare  # noqa: E402 - skipped without torch
from tvmlayers.torch import plain  # noqa: E402 - skipped without torch

GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(0, 50, (4, 6), generator=GENERATOR)


def normal(*shape: int, dtype: Any = None) -> Any:
    return torch.randn(*shape, generator=GENERATOR, dtype=dtype)


def agrees(got: Any, x: Any, linear: Any, activation: str = "linear") -> None:
    """AssertionError unless a result is that of float64, but for what rounding can amount to."""
    dtype = str(got.dtype).removeprefix("torch.")
    rounding = Rounding.of(dtype)
    x, weight = x.detach().double(), linear.weight.detach().double()
    value, size = x @ weight.T, x.abs() @ weight.abs().T
    if linear.bias is not None:
        value, size = value + linear.bias.double(), size + linear.bias.double().abs()
    want = Bounded(value.detach(), rounding.gamma(x.shape[-1] + 1) * size.detach())
    want = steps()[activation](want, rounding)
    difference = compare(got.detach().numpy(), want, rounding)
    assert difference.is_rounding, difference


def runs_compiled(module: Any) -> bool:
    return module._packed is not None and module._packed.model is not None


@torch.no_grad()
def call(module: Any, *inputs: Any, **named: Any) -> Any:
    return module(*inputs, **named)


def test_the_table_of_activations_is_whole() -> None:
    assert set(plain.ACTIVATIONS) == set(NAMES)
    x = torch.linspace(-4, 4, 40, dtype=torch.float64).reshape(4, 10)
    exact = Rounding.of("float64")
    for name, function in plain.ACTIVATIONS.items():
        want = steps()[name](Bounded.exact(x), exact).value
        torch.testing.assert_close(function(x), want, atol=1e-12, rtol=1e-9)  # softplus from 20


@pytest.mark.parametrize("activation", ["linear", "gelu", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_that_of_float64(activation: str, dtype: Any, bias: bool) -> None:
    linear = tt.Linear(33, 17, bias, None, dtype, activation=activation)
    for shape in ((5, 33), (33,), (2, 3, 33), (0, 33), (1, 33)):
        x = normal(*shape, dtype=dtype)
        got = call(linear, x)
        assert got.shape == (*shape[:-1], 17)
        agrees(got, x, linear, activation)
    assert runs_compiled(linear)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_of_an_embedding_are_pytorchs(dtype: Any) -> None:
    embedding = tt.Embedding(50, 8, padding_idx=3)
    for ids in (IDS, IDS[0], IDS[0, 0], IDS[:0], IDS[None]):
        got = call(embedding, ids.to(dtype).contiguous())
        assert torch.equal(got, embedding.weight.detach()[ids])
    assert runs_compiled(embedding)
    assert embedding._packed.model._arena.ctypes.data == embedding.weight.data_ptr()


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("last", [False, True])
def test_bags_are_pytorchs(mode: str, last: bool) -> None:
    table = torch.randint(-8, 8, (50, 8), generator=GENERATOR).float()  # whose sums are exact
    options = {"mode": mode, "include_last_offset": last, "padding_idx": 3}
    ours, theirs = (
        kind(50, 8, _weight=table, **options) for kind in (tt.EmbeddingBag, nn.EmbeddingBag)
    )
    flat, offsets = IDS.flatten(), torch.tensor([0, 5, 5, 24])
    calls: list[tuple[Any, ...]] = [(IDS,), (flat, offsets), (flat.int(), offsets.int())]
    if mode == "sum":
        calls += [(IDS, None, normal(4, 6).round()), (flat, offsets, normal(24).round())]
    for given in calls:
        wanted = call(theirs, *given)
        torch.testing.assert_close(call(ours, *given), wanted, atol=0, rtol=1e-6 * (mode == "mean"))
    assert runs_compiled(ours)


def _changes() -> dict[str, Callable[[Any], object]]:
    fresh = normal(6, 9)
    return {
        "in place": lambda m: m.weight.mul_(2),
        "one number": lambda m: m.weight[0, 0].fill_(7),
        "bias": lambda m: m.bias.add_(1),
        "init": lambda m: nn.init.xavier_normal_(m.weight),
        "state dict": lambda m: m.load_state_dict(tt.Linear(9, 6).state_dict()),
        "assigned": lambda m: m.load_state_dict(tt.Linear(9, 6).state_dict(), assign=True),
        "data": lambda m: setattr(m.weight, "data", fresh.clone()),
        "through data": lambda m: m.weight.data.mul_(2),
        "parameter": lambda m: setattr(m, "weight", nn.Parameter(fresh.clone())),
        "vector": lambda m: nn.utils.vector_to_parameters(torch.arange(60.0), m.parameters()),
        "shared": lambda m: m.share_memory(),
        "double": lambda m: m.double(),
        "half": lambda m: m.half(),
        "transposed": lambda m: setattr(m.weight, "data", normal(9, 6).T),
        "inference": lambda m: setattr(m, "weight", _inference_parameter()),
        "pruned": lambda m: nn.utils.prune.l1_unstructured(m, "weight", 5),
        "pruned bias": lambda m: nn.utils.prune.l1_unstructured(m, "bias", 3),
        "normed": lambda m: nn.utils.parametrizations.weight_norm(m),
    }


def _inference_parameter() -> Any:
    with torch.inference_mode():
        return nn.Parameter(torch.ones(6, 9), requires_grad=False)


@pytest.mark.parametrize("change", _changes())
def test_changed_weights_are_noticed(change: str) -> None:
    import torch.nn.utils.prune

    linear, x = tt.Linear(9, 6), normal(5, 9)
    for _ in range(2):
        agrees(call(linear, x), x, linear)
    with torch.no_grad():
        _changes()[change](linear)
    for _ in range(2):
        given = x.to(linear.weight.dtype)
        got = call(linear, given)
        if change == "half":
            assert torch.equal(got, nn.functional.linear(given, linear.weight, linear.bias))
        else:
            agrees(got, given, linear)


def test_weights_at_an_address_that_was_used_before_are_new_ones() -> None:
    linear, x = tt.Linear(64, 64, bias=False), normal(2, 64)
    places = set()
    for _ in range(20):
        linear.weight = nn.Parameter(normal(64, 64))
        agrees(call(linear, x), x, linear)
        places.add(linear.weight.data_ptr())
    assert len(places) < 20


def test_a_table_is_never_copied_and_always_the_current_one() -> None:
    embedding = tt.Embedding(50, 16)
    call(embedding, IDS)
    with torch.no_grad():
        embedding.weight.data[7] = 3
    embedding.weight.detach().numpy()[8] = 4
    assert torch.equal(call(embedding, torch.tensor([7, 8]))[:, 0], torch.tensor([3.0, 4.0]))
    unaligned = torch.arange(801.0)[1:].reshape(50, 16)
    embedding.weight.data = unaligned
    for _ in range(2):
        assert torch.equal(call(embedding, IDS), unaligned[IDS])
        unaligned.mul_(2)


def test_copies_that_share_parameters_at_first_have_their_own_later() -> None:
    linear, x = tt.Linear(9, 6), normal(5, 9)
    call(linear, x)
    other = linear._replicate_for_data_parallel()
    other._parameters = dict(linear._parameters)
    other.weight = nn.Parameter(torch.ones(6, 9))
    for _ in range(2):
        agrees(call(other, x), x, other)
        agrees(call(linear, x), x, linear)


def test_autograd_follows_where_it_is_wanted() -> None:
    torch.manual_seed(0)
    ours = tt.Linear(9, 6, activation="gelu")
    x = normal(5, 9).requires_grad_()
    ours(x).sum().backward()
    theirs = nn.Linear(9, 6)
    theirs.load_state_dict(ours.state_dict())
    y = x.detach().clone().requires_grad_()
    nn.functional.gelu(theirs(y)).sum().backward()
    assert torch.equal(ours.weight.grad, theirs.weight.grad)
    assert torch.equal(x.grad, y.grad)
    ours.requires_grad_(False)
    assert ours(x).requires_grad
    assert not ours(x.detach()).requires_grad
    assert runs_compiled(ours)


def test_training_steps_change_what_evaluation_computes() -> None:
    linear, x = tt.Linear(9, 6), normal(5, 9)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    for _ in range(3):
        agrees(call(linear, x), x, linear)
        linear(x).square().sum().backward()
        optimizer.step()
    agrees(call(linear, x), x, linear)


def test_what_compiled_code_does_not_take_pytorch_computes() -> None:
    linear = tt.Linear(9, 6)
    x = normal(5, 9)
    call(linear, x)
    strided = normal(9, 5).T
    assert torch.equal(
        call(linear, strided), nn.functional.linear(strided, linear.weight, linear.bias)
    )
    assert call(copy.deepcopy(linear).to("meta"), x.to("meta")).shape == (5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert call(linear, x).dtype == torch.bfloat16
    batch = normal(3, 5, 9)
    mapped = torch.func.vmap(lambda row: call(linear, row))(batch)
    agrees(mapped, batch, linear)
    with torch.no_grad():
        parameters = {"weight": torch.ones(6, 9), "bias": torch.zeros(6)}
        called = torch.func.functional_call(linear, parameters, (x,))
    torch.testing.assert_close(called, x.sum(1, keepdim=True).expand(5, 6))
    assert torch.equal(torch.jit.trace(linear, x)(2 * x), linear(2 * x))
    traced = torch.fx.symbolic_trace(linear)
    assert torch.equal(traced(2 * x), linear(2 * x))


def test_errors_are_pytorchs() -> None:
    linear, embedding = tt.Linear(9, 6), tt.Embedding(50, 8)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        call(linear, normal(5, 8))
    for index in (50, -1):
        with pytest.raises(IndexError, match="out of range in self"):
            call(embedding, torch.tensor([index]))
    with pytest.raises(ValueError, match="offsets has to be"):
        call(tt.EmbeddingBag(50, 8), IDS, torch.tensor([0]))
    with pytest.raises(tl.UnknownNameError, match=r"activation 'rely'.* Did you mean 'relu'"):
        tt.Linear(9, 6, activation="rely")
    with pytest.raises(tl.TargetError, match="modules of PyTorch run on this machine"):
        tt.Linear(9, 6, target="neoverse-n1")


def test_a_renormalised_table_is_pytorchs() -> None:
    ours, theirs = tt.Embedding(50, 8, max_norm=1.0), nn.Embedding(50, 8, max_norm=1.0)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(call(ours, IDS), call(theirs, IDS))
    assert torch.equal(ours.weight, theirs.weight)


def _copies() -> dict[str, Callable[[Any], Any]]:
    def saved(module: Any) -> Any:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    return {
        "deepcopy": copy.deepcopy,
        "copy": copy.copy,
        "pickle": lambda module: pickle.loads(pickle.dumps(module)),
        "torch.save": saved,
    }


@pytest.mark.parametrize("way", _copies())
def test_copies_are_independent_and_alike(way: str) -> None:
    linear, x = tt.Linear(9, 6, activation="relu"), normal(5, 9)
    before = call(linear, x)
    made = _copies()[way](linear)
    assert type(made) is tt.Linear
    assert torch.equal(call(made, x), before)
    if way != "copy":
        with torch.no_grad():
            made.weight.fill_(1)
    assert torch.equal(call(linear, x), before)
    agrees(call(made, x), x, made, "relu")


def test_threads_that_call_while_weights_change_get_one_of_both() -> None:
    linear, x = tt.Linear(16, 16, bias=False), torch.ones(1, 16)
    values = (1.0, 2.0)
    wrong: list[Any] = []
    done = threading.Event()
    with torch.no_grad():
        linear.weight.fill_(1.0)
    call(linear, x)

    def work() -> None:
        while not done.is_set():
            got = call(linear, x)
            if not all(float(value) in (16.0, 32.0) for value in got.unique()):
                wrong.append(got)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(100):
        linear.weight.data = torch.full((16, 16), values[turn % 2])
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert torch.equal(call(linear, x), torch.full((1, 16), 32.0))


def test_packed_weights_end_with_their_module() -> None:
    linear = tt.Linear(9, 6)
    call(linear, normal(5, 9))
    gone = weakref.ref(linear._packed.model)
    del linear
    gc.collect()
    assert gone() is None


def _in_child(module: Any, x: Any, queue: Any) -> None:
    queue.put(call(module, x).tolist())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_module_works_in_another_process(method: str) -> None:
    linear, x = tt.Linear(9, 6), normal(5, 9)
    before = call(linear, x)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(linear, x, queue))
    child.start()
    assert queue.get(timeout=300) == before.tolist()
    child.join()
