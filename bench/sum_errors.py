"""The rounding error of long sums beside PyTorch's: `python -m bench.sum_errors`.

Errors are root mean squares against float64, of standard normal numbers, with a fixed seed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import tvmlayers as tl

STEPS = (64, 256, 768, 4096, 16_384, 100_000)
ROWS = (1, 4, 32, 128)
COLUMNS = 128
_LEAST_RESULTS = 8192  # that a root mean square is taken of


@dataclass(frozen=True)
class SumError:
    """Of a dense layer of k features on so many rows: our error and PyTorch's."""

    k: int
    rows: int
    ours: float
    torch: float

    @property
    def ratio(self) -> float:
        return self.ours / self.torch


def dense_errors(target: str = "native") -> Iterator[SumError]:
    """The errors of dense layers without a bias, by k and rows."""
    import torch

    rng = np.random.default_rng(0)
    for k in STEPS:
        layer = tl.Dense(COLUMNS, use_bias=False, input_dim=k)
        kernel = rng.standard_normal((k, COLUMNS)).astype("float32")
        layer.set_weights([kernel])
        compiled = tl.compile(tl.Sequential([layer]), target=target)
        weight = torch.from_numpy(np.ascontiguousarray(kernel.T))
        for rows in ROWS:
            squares = []
            for _ in range(max(1, _LEAST_RESULTS // (rows * COLUMNS))):
                x = rng.standard_normal((rows, k)).astype("float32")
                exact = x.astype("float64") @ kernel.astype("float64")
                theirs = torch.nn.functional.linear(torch.from_numpy(x), weight).numpy()
                squares.append([((got - exact) ** 2).mean() for got in (compiled(x), theirs)])
            yield SumError(k, rows, *np.sqrt(np.mean(squares, axis=0)).tolist())


def main(target: str = "native") -> None:
    """Print the errors, ours and PyTorch's, and how many times PyTorch's ours is."""
    print("k       rows    ours       torch      ours / torch")
    for each in dense_errors(target):
        print(f"{each.k:<7} {each.rows:<7} {each.ours:.3e}  {each.torch:.3e}  {each.ratio:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
