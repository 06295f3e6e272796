from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvmlayers as tl


@given(st.integers(2, 40), st.integers(1, 64))
def test_all_pairs_are_counted_once(features: int, length: int) -> None:
    output = tl.DotInteraction()(tl.Input((features, length)))
    assert output.shape == (None, features * (features - 1) // 2)


def test_a_list_of_vectors_is_joined_first() -> None:
    inputs = [tl.Input((4,)) for _ in range(3)]
    model = tl.Model(inputs, tl.DotInteraction()(inputs))
    assert model.output_shape == (None, 3)
    assert [layer.kind for layer in model.layers] == ["Concatenate", "Reshape", "DotInteraction"]


@pytest.mark.parametrize("shape", [(4,), (1, 4), (None, 4), (2, 3, 4)])
def test_other_shapes_are_refused(shape: tuple[int | None, ...]) -> None:
    with pytest.raises(tl.ShapeError, match="two features or more"):
        tl.DotInteraction()(tl.Input(shape))


def test_vectors_of_different_lengths_are_refused() -> None:
    for inputs in ([tl.Input((4,)), tl.Input((5,))], [tl.Input((4,))]):
        with pytest.raises(tl.ShapeError, match="one shape"):
            tl.DotInteraction()(inputs)
