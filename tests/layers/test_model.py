from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl


def two_towers() -> tl.Model:
    """A recommender: users and items, each through a tower, compared by cosine."""
    user, item = tl.Input((), name="user"), tl.Input((5,), name="item")
    words = tl.Embedding(30, 8, mask_zero=True, name="words")
    left = tl.Dense(4, "relu")(tl.Embedding(20, 8)(user))
    right = tl.Dense(4, "relu")(tl.GlobalAveragePooling1D()(words(item)))
    return tl.Model([user, item], tl.Dot(axes=1, normalize=True)([left, right]), name="towers")


def dlrm() -> tl.Model:
    dense, inputs = tl.Input((13,), name="dense"), []
    features = [tl.Dense(16, "relu")(dense)]
    for number in range(3):
        inputs.append(tl.Input((None,), name=f"sparse_{number}"))
        features.append(tl.EmbeddingBag(100, 16, mode="sum")(inputs[-1]))
    crossed = tl.Concatenate()([tl.DotInteraction()(features), features[0]])
    return tl.Model([dense, *inputs], tl.Dense(1, "sigmoid")(tl.Dense(8, "relu")(crossed)))


def test_nodes_are_in_topological_order() -> None:
    for model in (two_towers(), dlrm()):
        known = set(map(id, model.inputs))
        for node in model.nodes:
            assert {id(tensor) for tensor in node.inputs} <= known
            known.add(id(node.output))
        assert {id(tensor) for tensor in model.outputs} <= known


def test_layers_come_in_kerass_order() -> None:
    # Keras 3 lists the deepest layers first: words, then user_embedding and the pooling, ...
    kinds = [layer.kind for layer in two_towers().layers]
    assert kinds == ["Embedding", "Embedding", "GlobalAveragePooling1D", "Dense", "Dense", "Dot"]
    assert two_towers().layers[0].name == "words"


def test_names_are_unique_and_kerass() -> None:
    names = [layer.name for layer in dlrm().layers]
    assert len(set(names)) == len(names)
    assert {"dense", "dense_1", "dense_2", "embedding_bag", "embedding_bag_2"} <= set(names)
    assert tl.Sequential([tl.GlobalAveragePooling1D(), tl.EmbeddingBag(3, 2)]).layers[0].name == (
        "global_average_pooling1d"
    )


def test_names_do_not_depend_on_models_made_before() -> None:
    first, second = dlrm(), dlrm()
    assert list(first.weights) == list(second.weights)


def test_two_names_of_the_users_that_clash_are_refused() -> None:
    with pytest.raises(tl.ConfigError, match="named 'a'"):
        tl.Sequential([tl.Dense(2, name="a", input_dim=3), tl.Dense(2, name="a")])


def test_a_name_of_the_users_is_not_given_to_another() -> None:
    model = tl.Sequential([tl.Dense(2, input_dim=3), tl.Dense(2, name="dense"), tl.Dense(2)])
    assert [layer.name for layer in model.layers] == ["dense_1", "dense", "dense_2"]


def test_free_axes_are_named_in_order_of_the_inputs() -> None:
    assert [tensor.dims for tensor in dlrm().inputs] == [
        ("n", 13),
        ("n", "n1"),
        ("n", "n2"),
        ("n", "n3"),
    ]


def test_a_shared_layer_has_two_nodes_and_one_set_of_weights() -> None:
    left, right = tl.Input((3,)), tl.Input((3,))
    tower = tl.Dense(4)
    model = tl.Model([left, right], tl.Dot(1)([tower(left), tower(right)]))
    assert len(model.nodes) == 3
    assert model.layers.count(tower) == 1
    assert len(model.get_weights()) == 2
    assert model.count_params() == 16
    again = tl.Model.from_config(model.get_config())
    assert again.nodes[0].layer is again.nodes[1].layer


def test_a_model_called_on_symbols_repeats_its_layers() -> None:
    tower = tl.Sequential([tl.Embedding(9, 4), tl.Flatten(), tl.Dense(2)])
    left, right = tl.Input((3,)), tl.Input((3,))
    model = tl.Model([left, right], tl.Dot(1)([tower(left), tower(right)]))
    assert len(model.nodes) == 7
    assert len(model.get_weights()) == 3
    outer = two_towers()
    copied = outer(tl.Input(()), tl.Input((5,)))
    assert copied.shape == (None, 1)
    with pytest.raises(tl.ShapeError, match="for input 'item'"):
        outer([tl.Input(()), tl.Input((6,))])


def test_several_outputs_stay_a_list() -> None:
    x = tl.Input((3,))
    model = tl.Model(x, [tl.Dense(2)(x), tl.Dense(4)(x)])
    assert model.output_shape == [(None, 2), (None, 4)]
    assert model.input_shape == (None, 3)


def test_a_missing_input_is_named() -> None:
    x, forgotten = tl.Input((3,)), tl.Input((3,), name="forgotten")
    with pytest.raises(tl.ConfigError, match="'forgotten'"):
        tl.Model(x, tl.Concatenate()([x, forgotten]))


def test_an_input_that_nothing_uses_is_taken_and_checked_as_others_are() -> None:
    x, unused = tl.Input((3,)), tl.Input((2,), name="unused")
    model = tl.Model([unused, x], tl.Dense(2)(x))
    again = tl.Model.from_config(model.get_config())
    assert again.input_shape == [(None, 2), (None, 3)]
    compiled = tl.compile(model)
    rows = np.ones((4, 3), np.float32)
    assert compiled(np.zeros((4, 2), np.float32), rows).shape == (4, 2)
    with pytest.raises(tl.ShapeError, match="'unused'"):
        compiled(np.zeros((4, 5), np.float32), rows)


def test_inputs_and_outputs_that_cannot_be_are_refused() -> None:
    x = tl.Input((3,))
    z = tl.Dense(2)(x)
    for inputs, outputs in [
        (x, x),
        ([x, x], z),
        (x, [z, z]),
        (z, tl.Dense(1)(z)),
        ([], z),
        (x, []),
        (x, 3),
        ("x", z),
    ]:
        with pytest.raises(tl.ConfigError):
            tl.Model(inputs, outputs)


def test_a_very_deep_model_needs_no_recursion() -> None:
    x = y = tl.Input((3,))
    layer = tl.Activation("relu")
    for _ in range(3000):
        y = layer(y)
    model = tl.Model(x, y)
    assert len(model.nodes) == 3000
    assert len(tl.Model.from_config(model.get_config()).nodes) == 3000


@pytest.mark.parametrize("make", [two_towers, dlrm])
def test_config_makes_an_equal_model(make: Any) -> None:
    model = make()
    config = json.loads(json.dumps(model.get_config()))
    again = tl.Model.from_config(config)
    assert again.get_config() == config
    again.set_weights(model.get_weights())
    for left, right in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
