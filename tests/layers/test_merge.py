from __future__ import annotations

import pytest

import tvmlayers as tl

MERGES = (tl.Add, tl.Average, tl.Maximum, tl.Minimum, tl.Multiply)


@pytest.mark.parametrize("merge", MERGES)
def test_shapes_are_broadcast_as_in_keras(merge: type[tl.Layer]) -> None:
    x, row, column = tl.Input((5, 7)), tl.Input((7,)), tl.Input((5, 1))
    assert merge()([x, x]).shape == (None, 5, 7)
    assert merge()([row, x, column]).shape == (None, 5, 7)
    assert merge()([row, column]).shape == (None, 5, 7)
    free = tl.Input((None, 7))
    assert merge()([free, free]).shape == (None, None, 7)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ([(3,), (4,)], r"equal lengths, or 1, on axis 1, got \(n, 3\) and \(n, 4\)"),
        ([(3, 1), (2, 1), (1, 5)], "on axis 1"),
        ([(None, 4), (1, 4)], "a fixed length on axis 1"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes: list[tuple[int, ...]], said: str) -> None:
    with pytest.raises(tl.ShapeError, match=said):
        tl.Add()([tl.Input(shape) for shape in shapes])


def test_free_axes_become_one() -> None:
    left, right = tl.Input((None, 4)), tl.Input((None, 4))
    model = tl.Model([left, right], tl.Add()([left, right]))
    assert model.inputs[0].axes == model.inputs[1].axes


def test_a_difference_is_of_two() -> None:
    x = tl.Input((3,))
    assert tl.Subtract()([x, x]).shape == (None, 3)
    with pytest.raises(tl.ShapeError, match="Subtract expected 2 tensors, got 3"):
        tl.Subtract()([x, x, x])
    with pytest.raises(tl.ConfigError, match="list of two or more"):
        tl.Add()([x])


def test_dtypes_must_agree() -> None:
    with pytest.raises(tl.DTypeError, match="expected float32, got float64"):
        tl.Add()([tl.Input((3,), dtype="float32"), tl.Input((3,), dtype="float64")])


def test_a_shared_mask_goes_on_and_several_do_not() -> None:
    ids, others = tl.Input((6,)), tl.Input((6,))
    masked, other = (tl.Embedding(9, 4, mask_zero=True)(t) for t in (ids, others))
    plain = tl.Dense(4)(tl.Input((6, 4)))
    assert tl.Add()([masked, plain]).mask_of is ids
    assert tl.Add()([masked, tl.Dense(4)(masked)]).mask_of is ids
    assert tl.Add()([masked, other]).mask_of is None


def test_work_is_counted() -> None:
    x = tl.Input((3, 4))
    (add, average) = (tl.Model(x, kind()([x, x, x])) for kind in (tl.Add, tl.Average))
    assert add.layers[0].flops(add.nodes[0].inputs, add.outputs[0]) == 24
    assert average.layers[0].flops(average.nodes[0].inputs, average.outputs[0]) == 36
