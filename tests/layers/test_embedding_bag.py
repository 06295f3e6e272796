from __future__ import annotations

import pytest

import tvmlayers as tl


def ragged() -> tuple[tl.layers.SymbolicTensor, tl.layers.SymbolicTensor]:
    return tl.Input((None,), batch=False, name="indices"), tl.Input((), name="offsets")


def test_each_row_of_2d_indices_is_a_bag() -> None:
    output = tl.EmbeddingBag(10, 4)(tl.Input((None,)))
    assert output.dims == ("n", 4)
    assert output.node is not None
    assert output.node.roles == ("indices",)


def test_offsets_give_the_number_of_bags() -> None:
    indices, offsets = ragged()
    output = tl.EmbeddingBag(10, 4)(indices, offsets)
    assert output.dims == ("n", 4)
    assert (indices.dims, offsets.dims) == (("n1",), ("n",))
    assert (indices.dtype, offsets.dtype) == ("int64", "int64")
    assert output.node is not None
    assert output.node.roles == ("indices", "offsets")


def test_last_offset_is_no_bag() -> None:
    indices, offsets = ragged()
    output = tl.EmbeddingBag(10, 4, include_last_offset=True)(indices, offsets=offsets)
    assert output.dims == ("n-1", 4)


def test_two_bags_on_one_offsets_have_one_batch() -> None:
    indices, offsets = ragged()
    both = [tl.EmbeddingBag(10, 4, include_last_offset=True)(indices, offsets) for _ in range(2)]
    assert tl.Concatenate()(both).dims == ("n-1", 8)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_sample_weights_have_a_role_and_the_layers_dtype(mode: str) -> None:
    indices, factors = tl.Input((5,)), tl.Input((5,))
    bag = tl.EmbeddingBag(10, 4, mode=mode, dtype="float64")
    output = bag(indices, per_sample_weights=factors)
    assert output.node is not None
    assert output.node.roles == ("indices", "per_sample_weights")
    assert factors.dtype == "float64"


@pytest.mark.parametrize("mode", ["max", "min"])
def test_sample_weights_need_a_sum_or_mean(mode: str) -> None:
    with pytest.raises(tl.ConfigError, match=f"sum or mean, its mode is {mode}"):
        tl.EmbeddingBag(10, 4, mode=mode)(tl.Input((5,)), per_sample_weights=tl.Input((5,)))


def test_sample_weights_have_the_indices_shape() -> None:
    with pytest.raises(tl.ShapeError, match="indices' shape"):
        tl.EmbeddingBag(10, 4)(tl.Input((5,)), per_sample_weights=tl.Input((6,)))


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_indices_without_offsets_are_2d(shape: tuple[int, ...]) -> None:
    with pytest.raises(tl.ShapeError, match=r"\(batch, length\)"):
        tl.EmbeddingBag(10, 4)(tl.Input(shape))


def test_ragged_indices_have_no_batch_axis() -> None:
    with pytest.raises(tl.ShapeError, match="batch=False"):
        tl.EmbeddingBag(10, 4)(tl.Input(()), tl.Input(()))


def test_float_offsets_are_refused() -> None:
    indices, _ = ragged()
    with pytest.raises(tl.DTypeError, match="expected integers"):
        tl.EmbeddingBag(10, 4)(indices, tl.Input((), dtype="float32"))


@pytest.mark.parametrize("named", [{"weights": 1}, {"indices": 1}, {"offset": 1}])
def test_unknown_or_repeated_arguments_are_refused(named: dict[str, int]) -> None:
    with pytest.raises(tl.ConfigError, match="is called with"):
        tl.EmbeddingBag(10, 4)(tl.Input((5,)), **named)


def test_unknown_mode_names_the_nearest() -> None:
    with pytest.raises(tl.UnknownNameError, match="Did you mean 'mean'"):
        tl.EmbeddingBag(10, 4, mode="means")


def test_ragged_wiring_survives_a_round_trip() -> None:
    indices, offsets = ragged()
    factors = tl.Input((None,), batch=False, name="factors")
    model = tl.Model([indices, offsets, factors], tl.EmbeddingBag(9, 2)(indices, offsets, factors))
    assert [tensor.dims for tensor in model.inputs] == [("n1",), ("n",), ("n1",)]
    again = tl.Model.from_config(model.get_config())
    assert again.get_config() == model.get_config()
