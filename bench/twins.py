"""The public models in PyTorch, on the same weights: the reference, and what peers compile."""

# mypy: disable-error-code="misc"

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.models import DLRM_BAGS, DLRM_BOTTOM, DLRM_TOP, TOWERS, Weights


def frozen_linear(kernel: Tensor, bias: Tensor) -> nn.Linear:
    """A Linear of this kernel, (in, out), which torch keeps as (out, in), and this bias."""
    # "meta": no random weights are drawn only to be replaced.
    layer = nn.Linear(*kernel.shape, device="meta")
    # A copy of any kernel, also of one column, which would be contiguous as it is.
    weight = kernel.t().clone(memory_format=torch.contiguous_format)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer.eval()


def linear(weights: Weights, name: str) -> nn.Linear:
    kernel, bias = weights[f"{name}.kernel"], weights[f"{name}.bias"]
    return frozen_linear(torch.from_numpy(kernel), torch.from_numpy(bias))


def embedding(weights: Weights, name: str) -> nn.Embedding:
    table = torch.from_numpy(weights[f"{name}.embeddings"])
    return nn.Embedding.from_pretrained(table, freeze=True)


def bag(weights: Weights, name: str, mode: str) -> nn.EmbeddingBag:
    table = torch.from_numpy(weights[f"{name}.embeddings"])
    return nn.EmbeddingBag.from_pretrained(table, freeze=True, mode=mode)


def seed(weights: Weights) -> nn.Module:
    return nn.Sequential(
        embedding(weights, "embedding"),
        nn.Flatten(),
        linear(weights, "hidden"),
        nn.ReLU(inplace=True),
        linear(weights, "output"),
        nn.Softmax(dim=-1),
    )


def text(weights: Weights) -> nn.Module:
    return nn.Sequential(bag(weights, "bag", "mean"), linear(weights, "output"), nn.Softmax(dim=-1))


class TwoTower(nn.Module):
    """(user ids, item ids) of shape (batch,) to the probability of a match: (batch, 1)."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            nn.Sequential(
                embedding(weights, tower),
                linear(weights, f"{tower}_hidden"),
                nn.ReLU(inplace=True),
                linear(weights, f"{tower}_output"),
            )
            for tower in TOWERS
        )

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        user_tower, item_tower = self.towers
        dot = (user_tower(user) * item_tower(item)).sum(dim=-1, keepdim=True)
        return torch.sigmoid(dot)


class Dlrm(nn.Module):
    """(numbers, indices of each bag) to a click's probability: (batch, 1)."""

    pairs: Tensor

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.bags = nn.ModuleList(bag(weights, f"bag{i}", "sum") for i in range(DLRM_BAGS))
        self.bottom = nn.Sequential(
            *(
                layer
                for place in range(len(DLRM_BOTTOM))
                for layer in (linear(weights, f"bottom{place}"), nn.ReLU(inplace=True))
            )
        )
        *hidden, last = (linear(weights, f"top{place}") for place in range(len(DLRM_TOP)))
        self.top = nn.Sequential(
            *(layer for dense in hidden for layer in (dense, nn.ReLU(inplace=True))),
            last,
            nn.Sigmoid(),
        )
        vectors = DLRM_BAGS + 1
        row, column = torch.tril_indices(vectors, vectors, offset=-1)
        self.register_buffer("pairs", row * vectors + column)

    def forward(self, numbers: Tensor, *indices: Tensor) -> Tensor:
        dense = self.bottom(numbers)
        features = [dense, *(bag(ids) for bag, ids in zip(self.bags, indices, strict=True))]
        stacked = torch.stack(features, dim=1)  # (batch, vectors, 64)
        products = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1)
        return self.top(torch.cat([dense, products.index_select(1, self.pairs)], dim=1))


TWINS: dict[str, Callable[[Weights], nn.Module]] = {
    "seed": seed,
    "text": text,
    "two tower": TwoTower,
    "dlrm": Dlrm,
}
