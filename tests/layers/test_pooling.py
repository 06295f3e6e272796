from __future__ import annotations

import pytest

import tvmlayers as tl


def pooled(*between: tl.Layer) -> tl.layers.SymbolicTensor:
    tensor = tl.Embedding(9, 4, mask_zero=True)(tl.Input((None,), name="words"))
    for layer in between:
        tensor = layer(tensor)
    output = tl.GlobalAveragePooling1D()(tensor)
    assert output.mask_of is None
    assert output.node is not None
    return output.node.inputs[0]


def test_steps_are_averaged_away() -> None:
    assert tl.GlobalAveragePooling1D()(tl.Input((None, 4))).shape == (None, 4)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4)])
def test_other_ranks_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(tl.ShapeError, match=r"\(batch, steps, features\)"):
        tl.GlobalAveragePooling1D()(tl.Input(shape))


def test_mask_passes_layers_that_keep_the_time_axis() -> None:
    mask = pooled(tl.Dropout(0.5), tl.Dense(3), tl.Activation("softmax")).mask_of
    assert mask is not None
    assert mask.name == "words"


def test_mask_ends_at_layers_that_change_the_axes() -> None:
    indices = tl.Input((6,))
    masked = tl.Embedding(9, 4, mask_zero=True)(indices)
    assert tl.Flatten()(masked).mask_of is None
    assert tl.Reshape((4, 6))(masked).mask_of is None
    assert tl.Concatenate()([masked, masked]).mask_of is None


def test_mask_is_found_again_in_a_copy() -> None:
    words = tl.Input((None,), name="words")
    output = tl.GlobalAveragePooling1D()(tl.Embedding(9, 4, mask_zero=True)(words))
    again = tl.Model.from_config(tl.Model(words, output).get_config())
    assert again.nodes[1].inputs[0].mask_of is again.inputs[0]
