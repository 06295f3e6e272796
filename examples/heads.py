"""Our dense layers as the head of a convolutional network and of a recurrent one of PyTorch.

`python -m examples.heads` after `pip install '.[demo]'`. The body stays PyTorch's; the head is
imported and compiled. Both networks are trained here, on scikit-learn's digits: the first sees them
as images, the second as sequences of eight rows.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import tvmlayers as tl
from examples.side_by_side import Side, print_table

EPOCHS, BATCH, WIDTH = 12, 64, 512


class Convolutional(nn.Module):
    """Two convolutions; its features are (batch, 1024)."""

    features = 1024

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x.reshape(-1, 1, 8, 8))


class Recurrent(nn.Module):
    """A GRU over the rows; its features are the last state, (batch, 128)."""

    features = 128

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.GRU(8, 128, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, state = self.body(x.reshape(-1, 8, 8))
        return state[0]


def head(features: int) -> nn.Sequential:
    """The dense layers behind either body."""
    return nn.Sequential(nn.Linear(features, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))


def train(body: nn.Module, top: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Fit both together by Adam."""
    optimizer = torch.optim.Adam([*body.parameters(), *top.parameters()], 1e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(top(body(x[rows])), y[rows]).backward()
            optimizer.step()


def main() -> int:
    """Train, compare and time; the exit status is 1 where logits differ."""
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    x, held, y, digits = train_test_split((x / 16).astype("float32"), y, random_state=0)
    images, labels, held = torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(held)
    same, rows = True, []
    for body in (Convolutional(), Recurrent()):
        top = head(body.features)
        train(body, top, images, labels)
        body.eval()
        compiled = tl.compile(tl.from_torch(top.eval()))
        with torch.inference_mode():
            features = body(held)
            logits, made = top(features), compiled(features)
            expected, answers = logits.argmax(1), made.argmax(1)
            name = type(body).__name__.lower()
            accuracy = np.mean(answers.numpy() == digits)
            print(
                f"{name}: accuracy {accuracy:.3f}, {int((answers == expected).sum())} of "
                f"{len(digits)} answers are PyTorch's"
            )
            same &= torch.allclose(made, logits, rtol=1e-4, atol=1e-4)
        for batch in (1, 256):
            some = features[:batch].clone()
            sides = [
                Side("tvmlayers", lambda some=some, compiled=compiled: compiled(some)),
                Side("torch", lambda some=some, top=top: top(some)),
            ]
            rows.append((f"{name} head, batch {batch}", sides))
    with torch.inference_mode():
        print_table(rows)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
