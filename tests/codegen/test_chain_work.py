"""A chain knows what each of its kernels costs, and so how many threads its rows are worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tvm import tirx

import tvmlayers as tl
from tvmlayers.codegen import forward

STEPS = (8, 16)


def pairs() -> dict[str, tl.Layer]:
    """Layers that a chain may be made of, each on an input (n, 8, 16)."""
    return {
        "activation": tl.Activation("tanh"),
        "softmax": tl.Activation("softmax"),
        "normalization": tl.LayerNormalization(),
        "elementwise": tl.PReLU(),
        "pooling": tl.GlobalMaxPooling1D(),
        "mean": tl.GlobalAveragePooling1D(),
        "dots": tl.DotInteraction(),
        "dense": tl.Dense(3),
    }


@pytest.mark.parametrize("kind", pairs())
def test_every_kernel_of_a_chain_counts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    find = forward.find_chain

    def remember(*args: Any) -> Any:
        found.append(find(*args))
        return found[-1]

    monkeypatch.setattr(forward, "find_chain", remember)
    x = tl.Input(STEPS)
    compiled = tl.compile(tl.Model(x, pairs()[kind](tl.Rescaling(2.0)(x))))
    (chain,) = found
    assert len(chain.calls) == 2
    for call in chain.calls:
        ten = tirx.const(10, "int64")
        shapes = [[ten if isinstance(n, tirx.Var) else n for n in shape] for shape in call.shapes]
        alone = replace(chain, calls=[replace(call, shapes=shapes)])
        assert int(alone._macs()) >= 10 * int(np.prod(STEPS))
    assert compiled(np.zeros((5, *STEPS), np.float32)).shape[0] == 5
