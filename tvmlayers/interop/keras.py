"""Keras 3 models, read from their configuration: neither Keras nor its backend is imported."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tvmlayers import layers
from tvmlayers.artifact.weights import to_numpy
from tvmlayers.dtypes import HALF_DTYPES, MIXED
from tvmlayers.errors import ConfigError, MissingDependencyError, ModelImportError, TvmLayersError
from tvmlayers.interop.building import Builder, Unsupported
from tvmlayers.layers.activations import ALIASES, NAMES
from tvmlayers.layers.graph import SymbolicTensor

Place = tuple[str, ...]
"""The names of the models that a layer is in, and its own."""
Weights = Mapping[Place, Sequence[Any]]
Described = Mapping[str, Any]
Tensor = SymbolicTensor | None

LARGEST_CONFIG = 64 * 2**20  # bytes; a model of thousands of layers takes a few MB


def from_keras(model: object) -> layers.Model:
    """The Model that a Keras 3 model computes at inference, with its weights.

    model: a built Sequential or functional model on any backend, or the path of a .keras file,
        which is read without Keras (by h5py). Nested models and shared layers are taken apart.

    Layers keep their names, with those of nested models in front. ModelImportError names every
    layer and option that is not supported, a model that was never built, and a damaged file.
    """
    if isinstance(model, (str, Path)):
        described, weights = _read_file(Path(model))
    else:
        described, weights = _read_model(model)
    reading = _Reading(weights)
    try:
        if (kind := described["class_name"]) not in MODELS:
            raise ModelImportError(f"from_keras imports {' and '.join(MODELS)} models, not {kind}")
        inputs, outputs = reading.model(described)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, TvmLayersError):
            raise
        raise ModelImportError(f"this is no configuration of a Keras 3 model: {error!r}") from error
    return layers.Model(inputs, outputs, name=str(described["config"]["name"]).replace("/", "."))


def _read_model(model: Any) -> tuple[Described, Weights]:
    """Configuration and weights of a Keras model in memory."""
    if not all(hasattr(model, part) for part in ("to_json", "layers", "built")):
        raise ConfigError(
            "from_keras expected a Keras 3 model or the path of a .keras file, got "
            f"{type(model).__name__}"
        )
    if not model.built:
        raise ModelImportError(
            f"the Keras model {model.name!r} was never built: call it once, or model.build(shape)"
        )
    try:
        described = json.loads(model.to_json())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ModelImportError(
            f"the Keras model {model.name!r} has no configuration, as a model that subclasses "
            f"keras.Model: {error}"
        ) from error
    return described, dict(_weights_of(model, ()))


def _weights_of(model: Any, path: Place) -> Iterator[tuple[Place, list[Any]]]:
    for layer in model.layers:
        own = (*path, layer.name)
        if hasattr(layer, "layers"):
            yield from _weights_of(layer, own)
        else:
            yield own, [to_numpy(_plain(weight)) for weight in layer.weights]


def _plain(variable: Any) -> Any:
    """What a Keras variable holds: an array of its backend."""
    value = getattr(variable, "value", variable)
    return value.numpy() if hasattr(value, "numpy") and not hasattr(value, "detach") else value


def _read_file(path: Path) -> tuple[Described, Weights]:
    """Configuration and weights of a .keras file, of which nothing is unpacked onto the disk."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(
            "from_keras reads .keras files by h5py, which is not installed: "
            "pip install 'tvmlayers[keras]'"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("config.json").file_size > LARGEST_CONFIG:
                raise ModelImportError(f"{path} has a configuration of more than 64 MiB")
            described = json.loads(archive.read("config.json"))
            with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
                return described, dict(_stored(file, ()))
    except (zipfile.BadZipFile, KeyError, OSError, RecursionError, ValueError) as error:
        if isinstance(error, TvmLayersError):
            raise
        raise ModelImportError(f"{path} is no .keras file, or a damaged one: {error}") from error


def _stored(group: Any, path: Place) -> Iterator[tuple[Place, list[Any]]]:
    """The weights below a group of the file; each layer has its name in an attribute."""
    for layer in group.get("layers", {}).values():
        own = (*path, str(layer["vars"].attrs["name"]))
        if "layers" in layer:
            yield from _stored(layer, own)
        else:
            yield own, [_array(layer["vars"], str(i)) for i in range(len(layer["vars"]))]


def _array(group: Any, name: str) -> Any:
    import h5py

    # A link may lead out of the file, and external storage to any file of this machine.
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or group[name].external:
        raise ModelImportError(f"the weight {group.name}/{name} lies outside of the file")
    return group[name][()]


class _Reading:
    """A configuration on its way to a model; None stands for a tensor that cannot be made."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.builder = Builder("Keras")
        self.made: dict[Place, layers.Layer] = {}

    def model(self, described: Described) -> tuple[list[SymbolicTensor], list[SymbolicTensor]]:
        """(inputs, outputs) of the outermost model."""
        first = [layer for layer in described["config"]["layers"] if _is_input(layer)]
        if not first:
            raise ModelImportError(f"the model {described['config']['name']!r} was never built")
        given = {layer["config"]["name"]: _input(layer["config"]) for layer in first}
        inputs = [given[name] for name in _input_names(described)]
        outputs = self.run(described, (), inputs)
        self.builder.finish()
        made = [tensor for tensor in outputs if tensor is not None]
        if len(made) != len(outputs):
            raise ModelImportError("an output is a comparison, which no layer here computes")
        return inputs, made

    def run(self, described: Described, path: Place, given: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of a model, nested or not, on these inputs."""
        config = described["config"]
        if described["class_name"] == "Sequential":
            tensors = list(given)
            for layer in config["layers"]:
                if not _is_input(layer):
                    tensors = self.call(layer, path, tensors, {})
            return tensors
        known = {(n, 0, 0): t for n, t in zip(_input_names(described), given, strict=True)}
        waiting = [
            (layer, number, node)
            for layer in config["layers"]
            for number, node in enumerate(layer["inbound_nodes"])
        ]
        while waiting:
            later = []
            for layer, number, node in waiting:
                taken = list(_places_in(node["args"]))
                if all(place in known for place in taken):
                    tensors = [known[place] for place in taken]
                    outputs = self.call(layer, path, tensors, node["kwargs"])
                    for index, tensor in enumerate(outputs):
                        known[layer["name"], number, index] = tensor
                else:
                    later.append((layer, number, node))
            if len(later) == len(waiting):
                names = ", ".join(str(layer["name"]) for layer, *_ in later)
                raise ModelImportError(f"what {names} take comes from nowhere")
            waiting = later
        return [known[end] for end in _ends(config["output_layers"])]

    def call(
        self, described: Described, path: Place, given: list[Tensor], options: Described
    ) -> list[Tensor]:
        """What a layer, or a nested model, makes of tensors."""
        kind, config = described["class_name"], described["config"]
        own = (*path, config["name"])
        if kind in MODELS:
            return self.run(described, own, given)
        if kind == "NotEqual":  # the mask of mask_zero, which the Embedding carries itself
            return [None]
        tensors = [tensor for tensor in given if tensor is not None]
        with self.builder.part(f"{kind} {'.'.join(own)!r}"):
            make = LAYERS.get(kind)
            if make is None:
                raise Unsupported("no layer here computes it")
            if config.get("quantization_config") or config.get("lora_rank"):
                raise Unsupported("quantised and LoRA weights are not read")
            _need_options(kind, options, tensors)
            is_new = own not in self.made
            if is_new:
                self.made[own] = make(config)
                self.made[own].name = self.builder.name(".".join(own))
                self.made[own].auto_named = False
            layer = self.made[own]
            if len(tensors) == len(given):
                _need_dtype(layer, config, tensors)
                tensor = layer(tensors if layer.takes_list else tensors[0])
                if is_new:
                    layer.set_weights(self.weights.get(own, []))
                return [tensor]
        return [None]


def _is_input(layer: Described) -> bool:
    return bool(layer["class_name"] == "InputLayer")


def _input(config: Described) -> SymbolicTensor:
    """An Input. Of a float32 one, Keras's default, the first layer decides the dtype here too."""
    if config.get("sparse") or config.get("ragged"):
        raise ModelImportError(f"the input {config['name']!r} is sparse or ragged")
    dtype = config["dtype"] if config["dtype"] != "float32" else None
    return layers.Input(config["batch_shape"][1:], dtype=dtype, name=config["name"])


def _input_names(described: Described) -> list[str]:
    config = described["config"]
    if described["class_name"] == "Sequential":
        return [layer["config"]["name"] for layer in config["layers"] if _is_input(layer)]
    return [name for name, *_ in _ends(config["input_layers"])]


def _ends(listed: Any) -> list[tuple[str, int, int]]:
    """The places of inputs or outputs, which Keras writes as one, a list or a dictionary."""
    if isinstance(listed, Mapping):
        listed = list(listed.values())
    if len(listed) == 3 and isinstance(listed[0], str):
        listed = [listed]
    return [(name, node, index) for name, node, index in listed]


def _places_in(value: Any) -> Iterator[tuple[str, int, int]]:
    """The places of the tensors in the arguments of a call."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            name, node, index = value["config"]["keras_history"]
            yield name, node, index
            return
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _places_in(part)


def _need_options(kind: str, options: Described, tensors: Sequence[SymbolicTensor]) -> None:
    """Unsupported for arguments of a call that a layer here does not know."""
    if kind in ("Maximum", "Minimum") and any(tensor.mask_of for tensor in tensors):
        raise Unsupported("it leaves out what a mask hides, which no layer here does")
    for name, value in options.items():
        mask_is_ours = kind == "GlobalAveragePooling1D" and tensors and tensors[0].mask_of
        is_mask = name in ("mask", "previous_mask") and isinstance(value, Mapping)
        if is_mask and kind in ("GlobalAveragePooling1D", "Softmax") and not mask_is_ours:
            raise Unsupported("it has a mask that is not that of an Embedding before it")
        if list(_places_in(value)) and not is_mask:
            raise Unsupported(f"it is called with {name}=")


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


def _dtype(config: Described) -> str:
    policy = config["dtype"]
    name = policy if isinstance(policy, str) else policy["config"]["name"]
    if "_from_" in name:
        raise Unsupported(f"its dtype policy {name} is of quantised weights")
    return str(name)


def _need_dtype(layer: layers.Layer, config: Described, given: Sequence[SymbolicTensor]) -> None:
    """Unsupported where a layer without weights would cast its inputs."""
    wanted = _dtype(config).removeprefix(MIXED)
    others = {tensor.dtype for tensor in given if tensor.node is not None} - {wanted}
    if not layer.has_weights and others and {wanted, *others} & set(HALF_DTYPES):
        raise Unsupported(f"it casts {', '.join(sorted(others))} to {wanted}, which no layer does")


def _dense(config: Described) -> layers.Layer:
    activation, dtype = _activation(config["activation"]), _dtype(config)
    return layers.Dense(config["units"], activation, config["use_bias"], dtype=dtype)


def _embedding(config: Described) -> layers.Layer:
    rows, columns, mask = (config[key] for key in ("input_dim", "output_dim", "mask_zero"))
    return layers.Embedding(rows, columns, mask_zero=mask, dtype=_dtype(config))


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
        return kind(**{name: config[name] for name in options}, dtype=_dtype(config))

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
    "Rescaling": lambda config: layers.Rescaling(config["scale"], config["offset"]),
    "Reshape": lambda config: layers.Reshape(config["target_shape"]),
    "Softmax": _softmax,
    "SpatialDropout1D": _nothing,
    "Subtract": lambda config: layers.Subtract(),
    "UnitNormalization": lambda config: layers.UnitNormalization(config["axis"]),
}
"""By Keras's class."""
