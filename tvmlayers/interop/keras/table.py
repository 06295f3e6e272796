"""Keras's layers that can be imported: one row each, from a configuration to a layer of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvmlayers import layers
from tvmlayers.interop.building import Unsupported
from tvmlayers.interop.keras.stored import Described
from tvmlayers.layers.activations import ALIASES, NAMES


def _numbers(value: Any) -> Any:
    """A number, or an array as Keras writes NumPy's."""
    return value["config"]["value"] if isinstance(value, Mapping) else value


def _need(config: Described, **wanted: tuple[object, ...]) -> None:
    for option, values in wanted.items():
        got = config.get(option, values[0])
        if got not in values:
            listed = " and ".join(f"{option}={value!r}" for value in values)
            raise Unsupported(f"only {listed} is there, not {got!r}")


def _activation(value: Any) -> str:
    if not isinstance(value, str) or value not in (*NAMES, *ALIASES):
        raise Unsupported(f"no layer here has the activation {value!r}")
    return value


def dtype_of(config: Described) -> str:
    """The dtype or the mixed policy of a layer; Unsupported for a policy of quantised weights."""
    policy = config["dtype"]
    name = policy if isinstance(policy, str) else policy["config"]["name"]
    if "_from_" in name:
        raise Unsupported(f"its dtype policy {name} is of quantised weights")
    return str(name)


def _dense(config: Described) -> layers.Layer:
    activation, dtype = _activation(config["activation"]), dtype_of(config)
    return layers.Dense(config["units"], activation, config["use_bias"], dtype=dtype)


def _embedding(config: Described) -> layers.Layer:
    rows, columns, mask = (config[key] for key in ("input_dim", "output_dim", "mask_zero"))
    return layers.Embedding(rows, columns, mask_zero=mask, dtype=dtype_of(config))


def _flatten(config: Described) -> layers.Layer:
    _need(config, data_format=("channels_last",))
    return layers.Flatten()


def _pooling(kind: Callable[..., layers.Layer]) -> Callable[[Described], layers.Layer]:
    def made(config: Described) -> layers.Layer:
        _need(config, data_format=("channels_last",), keepdims=(False,))
        return kind()

    return made


def _normalisation(
    kind: Callable[..., layers.Layer], *options: str
) -> Callable[[Described], layers.Layer]:
    """A layer of weights whose arguments are Keras's."""

    def made(config: Described) -> layers.Layer:
        _need(config, rms_scaling=(False,), renorm=(False,))
        return kind(**{name: config[name] for name in options}, dtype=dtype_of(config))

    return made


def _relu(config: Described) -> layers.Layer:
    _need(config, max_value=(None, 6), threshold=(0,))
    if slope := config["negative_slope"]:
        _need(config, max_value=(None,))
        return layers.LeakyReLU(slope)
    return layers.Activation("relu6" if config["max_value"] else "relu")


def _softmax(config: Described) -> layers.Layer:
    _need(config, axis=(-1,))
    return layers.Activation("softmax")


def _nothing(config: Described) -> layers.Layer:
    return layers.Activation("linear")


MODELS = ("Functional", "Sequential")
LAYERS: dict[str, Callable[[Described], layers.Layer]] = {
    "Activation": lambda config: layers.Activation(_activation(config["activation"])),
    "ActivityRegularization": _nothing,
    "AlphaDropout": _nothing,
    "Add": lambda config: layers.Add(),
    "Average": lambda config: layers.Average(),
    "BatchNormalization": _normalisation(
        layers.BatchNormalization, "axis", "momentum", "epsilon", "center", "scale"
    ),
    "Concatenate": lambda config: layers.Concatenate(config.get("axis", -1)),
    "Dense": _dense,
    "Dot": lambda config: layers.Dot(config["axes"], config["normalize"]),
    "Dropout": lambda config: layers.Dropout(config["rate"]),
    "ELU": lambda config: layers.ELU(config["alpha"]),
    "Embedding": _embedding,
    "Flatten": _flatten,
    "GaussianDropout": _nothing,
    "GaussianNoise": _nothing,
    "GlobalAveragePooling1D": _pooling(layers.GlobalAveragePooling1D),
    "GlobalMaxPooling1D": _pooling(layers.GlobalMaxPooling1D),
    "Identity": _nothing,
    "LayerNormalization": _normalisation(
        layers.LayerNormalization, "axis", "epsilon", "center", "scale"
    ),
    "LeakyReLU": lambda config: layers.LeakyReLU(config["negative_slope"]),
    "Maximum": lambda config: layers.Maximum(),
    "Minimum": lambda config: layers.Minimum(),
    "Multiply": lambda config: layers.Multiply(),
    "PReLU": _normalisation(layers.PReLU, "shared_axes"),
    "RMSNormalization": _normalisation(layers.RMSNormalization, "axis", "epsilon"),
    "ReLU": _relu,
    "Rescaling": lambda config: layers.Rescaling(
        _numbers(config["scale"]), _numbers(config["offset"])
    ),
    "Reshape": lambda config: layers.Reshape(config["target_shape"]),
    "Softmax": _softmax,
    "SpatialDropout1D": _nothing,
    "Subtract": lambda config: layers.Subtract(),
    "UnitNormalization": lambda config: layers.UnitNormalization(config["axis"]),
}
"""By Keras's class."""
