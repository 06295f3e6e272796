from __future__ import annotations

import pytest

import tvmlayers as tl
from tvmlayers import Dense, Embedding, Sequential


def test_kerass_tutorials_run_word_for_word() -> None:
    first = Sequential([Embedding(input_dim=5000, output_dim=64, input_length=10)])
    assert (first.input_shape, first.output_shape) == ((None, 10), (None, 10, 64))
    second = Sequential(
        [Dense(units=128, activation="relu"), Dense(units=10, activation="softmax")]
    )
    second.build((None, 64))
    assert second.output_shape == (None, 10)


def test_adding_is_the_same_as_listing() -> None:
    listed = Sequential([Embedding(9, 4, input_length=3), tl.Flatten(), Dense(2)])
    added = Sequential()
    for layer in (Embedding(9, 4, input_length=3), tl.Flatten(), Dense(2)):
        added.add(layer)
    assert added.get_config() == listed.get_config()


def test_an_input_may_come_first_only() -> None:
    assert Sequential([tl.Input((4,)), Dense(2)]).input_shape == (None, 4)
    with pytest.raises(tl.ConfigError, match="only the first"):
        Sequential([Dense(2), tl.Input((4,))])
    with pytest.raises(tl.ConfigError, match="expected layers, got function"):
        Sequential([lambda x: x])


def test_without_a_shape_it_says_how_to_give_one() -> None:
    model = Sequential([Dense(2)])
    for ask in (lambda: model.inputs, model.summary, model.build, lambda: model.save("x")):
        with pytest.raises(tl.ConfigError, match="call build"):
            ask()
    assert "not built" in repr(model)
    assert model.layers[0].kind == "Dense"


def test_an_empty_one_is_refused_when_it_is_used() -> None:
    with pytest.raises(tl.ConfigError):
        _ = Sequential().inputs


def test_build_takes_any_batch() -> None:
    for batch in (None, 32):
        model = Sequential([Dense(2)])
        model.build((batch, 4))
        assert model.input_shape == (None, 4)
    model.add(Dense(3))
    assert model.output_shape == (None, 3)


def test_layers_that_do_not_fit_are_refused_at_once() -> None:
    with pytest.raises(tl.ShapeError, match="12 input features"):
        Sequential([tl.Input((4,)), Dense(11), Dense(2, input_dim=12)])


def test_models_can_be_parts() -> None:
    inner = Sequential([Dense(3, input_dim=4), Dense(5)])
    outer = Sequential([inner, Dense(2)])
    assert outer.input_shape == (None, 4)
    assert len(outer.get_weights()) == 6
    assert outer.layers[0] is inner.layers[0]


def test_calling_an_open_one_on_symbols_builds_it() -> None:
    tower = Sequential([Dense(3), Dense(2)])
    tower(tl.Input((7,)))
    assert tower.input_shape == (None, 7)
    assert len(tower.get_weights()) == 4


def test_first_layer_with_weights_gives_the_dtype() -> None:
    model = Sequential([tl.Input((2, 2)), tl.Flatten(), Dense(2, dtype="float64")])
    assert model.inputs[0].dtype == "float64"


@pytest.mark.parametrize("layers", [[], [Dense(2), Dense(3)], [Embedding(9, 2), tl.Flatten()]])
def test_an_open_one_survives_a_round_trip(layers: list[tl.Layer]) -> None:
    model = Sequential(layers, name="open")
    again = tl.Model.from_config(model.get_config())
    assert isinstance(again, Sequential)
    assert again.get_config() == model.get_config()
