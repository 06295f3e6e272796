"""Gradients of the modules of `tvmlayers.torch`, and tables that follow an optimiser."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import tvmlayers as tl

torch = pytest.importorskip("torch")  # before what cannot be imported without it
from torch import nn  # noqa: E402 - skipped without torch

import tvmlayers.torch as tt  # noqa: E402 - skipped without torch
from tvmlayers.testing.bounds import Rounding  # noqa: E402 - skipped without torch

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # of PyTorch's Adagrad

ROWS, WIDTH = 50, 8
GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(0, ROWS, (4, 6), generator=GENERATOR)
IDS[0, 0] = 3  # the row that is left out where there is a padding_idx
OFFSETS = torch.tensor([0, 5, 5, 24])  # an empty bag too
ROUNDING = Rounding.of("float32")
CALLS = {"rows": (IDS,), "offsets": (IDS.flatten(), OFFSETS)}


def normal(*shape: int, dtype: Any = None) -> Any:
    return torch.randn(*shape, generator=GENERATOR, dtype=dtype)


def pair(kind: str, **options: Any) -> tuple[Any, Any]:
    """One of our tables and PyTorch's, with the same weights; options of ours alone are left out
    of the other."""
    ours = getattr(tt, kind)(ROWS, WIDTH, **options)
    theirs = getattr(nn, kind)(
        ROWS, WIDTH, **{k: v for k, v in options.items() if k != "optimizer"}
    )
    theirs.load_state_dict({"weight": ours.weight.detach().clone()})
    return ours, theirs


def both(ours: Any, theirs: Any, *given: Any) -> Any:
    """Both differentiated for one gradient of the result, which is given back; of whole numbers,
    whose sums are exact."""
    slope = normal(*theirs(*given).shape).mul(4).round()
    for module in (ours, theirs):
        module(*given).backward(slope)
    return slope


def dense(gradient: Any) -> Any:
    return gradient.to_dense() if gradient.is_sparse else gradient


def is_near(got: Any, want: Any, terms: int, size: float) -> bool:
    """Whether two sums of so many terms of that size differ by what rounding can amount to."""
    return bool((got - want).abs().max() <= 2 * ROUNDING.gamma(terms) * terms * size)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("padding", [None, 3])
def test_gradients_of_tables_are_pytorchs(sparse: bool, padding: int | None) -> None:
    for kind, mode in (("Embedding", None), ("EmbeddingBag", "sum"), ("EmbeddingBag", "mean")):
        options = {} if mode is None else {"mode": mode}
        for given in list(CALLS.values())[: 1 if mode is None else 2]:
            ours, theirs = pair(kind, sparse=sparse, padding_idx=padding, **options)
            slope = both(ours, theirs, *given)
            got, want = ours.weight.grad, theirs.weight.grad
            is_ours = type(ours(*given).grad_fn).__name__ == "_LookupBackward"
            assert is_ours is not sparse
            assert (got.is_sparse, got.shape) == (sparse, want.shape)
            assert is_near(dense(got), dense(want), IDS.numel(), float(slope.abs().max()))
            if sparse:
                assert got._nnz() == want._nnz()


OPTIMIZERS = {
    "sgd": (tl.optimizers.SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "adagrad": (
        tl.optimizers.Adagrad(0.1, initial_accumulator_value=0.1),
        lambda p: torch.optim.Adagrad(p, 0.1, initial_accumulator_value=0.1),
    ),
    "lazy_adam": (tl.optimizers.LazyAdam(0.1), lambda p: torch.optim.SparseAdam(p, 0.1)),
}


def steps(ours: Any, theirs: Any, optimizer: Any, count: int = 3) -> None:
    """Some steps of both, the other one by an optimiser of PyTorch's."""
    for _ in range(count):
        both(ours, theirs, torch.randint(0, ROWS, (4, 6), generator=GENERATOR))
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_table_follows_its_optimiser_as_pytorchs_does(name: str) -> None:
    ours_by, theirs_by = OPTIMIZERS[name]
    for kind, options in (("Embedding", {}), ("EmbeddingBag", {"mode": "sum"})):
        ours, theirs = pair(kind, optimizer=ours_by, **options)
        theirs.sparse = True
        before = ours.weight.detach().clone()
        steps(ours, theirs, theirs_by(theirs.parameters()))
        assert ours.weight.grad is None
        # Gradients are exact: what is left are a few roundings of numbers of at most 4 a step.
        torch.testing.assert_close(ours.weight, theirs.weight, atol=2e-6, rtol=2e-6)
        assert not torch.equal(before, ours.weight)


def test_the_state_of_a_table_goes_on() -> None:
    made = [tt.EmbeddingBag(ROWS, WIDTH, optimizer="lazy_adam") for _ in range(2)]
    first, second = made
    slope = normal(4, WIDTH)
    first(IDS).backward(slope)
    second.load_state_dict(first.state_dict())
    third, fourth = copy.deepcopy(first), pickle.loads(pickle.dumps(first))
    for module in (first, second, third, fourth):
        module(IDS).backward(slope)
        assert int(module.optimizer_iterations) == 2
        assert torch.equal(module.weight, first.weight)
    assert set(first.state_dict()) == {
        "weight", "optimizer_iterations", "optimizer_m", "optimizer_v"
    }  # fmt: skip


def test_a_state_with_one_number_a_row_is_a_buffer_of_so_many() -> None:
    made = tt.Embedding(ROWS, WIDTH, optimizer="rowwise_adam")
    before = made.weight.detach().clone()
    made(IDS).backward(normal(*IDS.shape, WIDTH))
    assert (made.optimizer_m.shape, made.optimizer_v.shape) == ((ROWS, WIDTH), (ROWS,))
    used = torch.zeros(ROWS, dtype=torch.bool).index_fill(0, IDS.flatten(), True)
    assert torch.equal(made.optimizer_v > 0, used)
    # The first step of Adam goes along m / sqrt(v): 0.001 of the root of the mean square.
    moved = (made.weight - before)[used]
    torch.testing.assert_close(moved.pow(2).mean(1).sqrt(), torch.full((int(used.sum()),), 1e-3))


def test_a_rate_is_set_and_frozen_tables_stay() -> None:
    table = tt.Embedding(ROWS, WIDTH, optimizer="sgd")
    assert table.learning_rate == 0.01
    table.learning_rate = 0.5
    before, version = table.weight.detach().clone(), table.weight._version
    table(IDS[0, :1]).sum().backward()
    want = before.clone()
    want[3] -= 0.5
    assert torch.equal(table.weight, want)
    assert table.weight._version > version
    with torch.no_grad():
        assert not table(IDS).requires_grad
    table.requires_grad_(False)
    assert not table(IDS).requires_grad
    with pytest.raises(tl.ConfigError, match="learning_rate of at least 0"):
        table.learning_rate = -1
    with pytest.raises(tl.ConfigError, match="no learning rate of its own"):
        tt.Embedding(3, 2).learning_rate = 1


@pytest.mark.parametrize(
    "options", [{"max_norm": 1.0}, {"sparse": True}, {"scale_grad_by_freq": True}, {"mode": "max"}]
)
def test_options_that_do_not_go_with_an_optimiser_are_refused(options: Any) -> None:
    kind = tt.EmbeddingBag if "mode" in options else tt.Embedding
    with pytest.raises(tl.ConfigError, match=f"takes no {next(iter(options))}="):
        kind(ROWS, WIDTH, optimizer="sgd", **options)


def test_gradients_are_not_differentiated_again() -> None:
    table = tt.Embedding(ROWS, WIDTH)
    loss = table(IDS).square().sum()
    (gradient,) = torch.autograd.grad(loss, table.weight, create_graph=True)
    with pytest.raises(tl.GradientError, match=r"without create_graph=True, or take PyTorch's"):
        gradient.sum().backward()
