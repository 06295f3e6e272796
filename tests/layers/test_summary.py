from __future__ import annotations

import pytest

import tvmlayers as tl
from tvmlayers.layers.summary import rows


def seed_model() -> tl.Sequential:
    return tl.Sequential(
        [
            tl.Embedding(input_dim=5000, output_dim=64, input_length=10),
            tl.Flatten(),
            tl.Dense(units=128, activation="relu"),
            tl.Dense(units=10, activation="softmax"),
        ]
    )


def test_numbers_are_those_counted_by_hand() -> None:
    embedding, flatten, dense, last = rows(seed_model())
    assert (embedding.params, embedding.flops) == (320_000, 0)
    assert embedding.bytes == 10 * 8 + 2 * 10 * 64 * 4
    assert (flatten.params, flatten.flops, flatten.bytes) == (0, 0, 0)
    assert dense.params == 640 * 128 + 128
    assert dense.flops == 2 * 640 * 128 + 2 * 128
    assert dense.bytes == 4 * (640 + 128 + 640 * 128 + 128)
    assert last.output_shape == (None, 10)


def test_text_is_printed_and_returned(capsys: pytest.CaptureFixture[str]) -> None:
    text = seed_model().summary()
    assert "embedding (Embedding)" in text
    assert "403,338" in text
    assert "403,338" in capsys.readouterr().out


def test_print_fn_takes_the_place_of_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    printed: list[str] = []
    assert [seed_model().summary(print_fn=printed.append)] == printed
    assert capsys.readouterr().out == ""


def test_a_shared_layer_is_counted_once() -> None:
    left, right = tl.Input((3,)), tl.Input((3,))
    tower = tl.Dense(4)
    listed = rows(tl.Model([left, right], tl.Dot(1)([tower(left), tower(right)])))
    assert [row.params for row in listed] == [16, 0, 0]
    assert [row.layer for row in listed] == ["dense", "dense_1", "dot"]


def test_free_axes_are_said_to_count_as_one() -> None:
    assert "free axis as 1" in tl.Sequential([tl.Embedding(9, 4)]).summary(print_fn=len)


@pytest.mark.parametrize(
    ("output", "flops"),
    [
        (lambda: tl.EmbeddingBag(9, 4, mode="sum")(tl.Input((5,))), 20),
        (lambda: tl.EmbeddingBag(9, 4, mode="mean")(tl.Input((5,))), 24),
        (lambda: tl.Dot(1)([tl.Input((8,)), tl.Input((8,))]), 16),
        (lambda: tl.DotInteraction()(tl.Input((3, 8))), 48),
        (lambda: tl.GlobalAveragePooling1D()(tl.Input((5, 4))), 24),
        (lambda: tl.Activation("relu")(tl.Input((5,))), 5),
    ],
)
def test_flops_of_the_other_layers(output: object, flops: int) -> None:
    tensor = output()
    assert tensor.node.layer.flops(tensor.node.inputs, tensor) == flops
