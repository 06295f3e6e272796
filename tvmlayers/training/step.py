"""A compiled training step: its weights and states, and calls that move them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tvmlayers.artifact import file as artifact
from tvmlayers.artifact.arena import view
from tvmlayers.artifact.manifest import STEP_FORMAT
from tvmlayers.artifact.panels import pack, unpack
from tvmlayers.artifact.weights import as_numbers, views
from tvmlayers.errors import (
    ConfigError,
    IndexOutOfRangeError,
    ShapeError,
    TvmLayersError,
    WeightsError,
)
from tvmlayers.files import saving
from tvmlayers.foreign import is_refusal
from tvmlayers.layers import Model
from tvmlayers.numeric import not_negative_real
from tvmlayers.runtime import diagnose, ffi, tensors
from tvmlayers.runtime.scratch import OwnScratch
from tvmlayers.runtime.signature import LAST_STATUS_BIT, Entry, Slot, read_slot
from tvmlayers.runtime.threads import count as count_threads
from tvmlayers.safetensors_file import chunks
from tvmlayers.safetensors_file import read as read_arrays
from tvmlayers.training.optimizers import Optimizer, from_config
from tvmlayers.training.outputs import as_float, parts_of, truth_array
from tvmlayers.training.predictions import read_predictions

Array = NDArray[Any]
_FORMAT = "tvmlayers.step"
SYMBOL = "step"  # of the compiled function


class TrainingStep:
    """One step of training, compiled: `step(x, y, sample_weight=None, learning_rate=None) -> loss`.

    It has weights and states of its own, which begin as the model's. Calls from several threads
    would move the same weights: make one at a time.
    """

    def __init__(
        self,
        model: Model,
        manifest: Mapping[str, Any],
        function: Callable[..., int],
        arena: NDArray[np.uint8],
        threads: int | None = None,
        library: Callable[[], bytes] | None = None,
    ) -> None:
        self.model, self.manifest = model, manifest
        self._library = library
        self.optimizer: Optimizer = from_config(manifest["optimizer"])
        self.table_optimizer: Optimizer = from_config(manifest["tables"])
        # Of its own: the predictions of a batch are read from it.
        self._scratch = OwnScratch()
        self._function = self._scratch.given_to(function)
        self._arena, self._arena_tensor = arena, ffi.from_array(arena)
        inputs = tuple(read_slot(each) for each in manifest["inputs"])
        self._outputs = [output["name"] for output in manifest["outputs"]]
        truths = tuple(read_slot(output["truth"]) for output in manifest["outputs"])
        self._inputs, self._truths = inputs, truths
        self._weight = Slot("sample_weight", ("n",), np.dtype(manifest["dtype"]))
        self._entries = [
            Entry(self._function, slots, (), self._function, True)
            for slots in ((*inputs, *truths), (*inputs, *truths, self._weight))
        ]
        self._rows = {row["name"]: row for row in manifest["weights"]}
        self._no_weight = ffi.from_array(np.ones(1, self._weight.dtype))
        self._loss, self._rates = np.zeros(1 + len(truths)), np.zeros(2)
        self._rates[:] = self._rates_of(None)
        self._loss_tensor, self._rates_tensor = map(ffi.from_array, (self._loss, self._rates))
        self._dtypes = tuple(slot.dtype for slot in (*inputs, *truths))
        self._last: Sequence[Array] = ()
        self._compiled: Any = None
        self.threads = threads

    def __call__(
        self,
        x: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        learning_rate: float | None = None,
    ) -> float:
        """Forwards, backwards and update for one batch; gives its loss before the update.

        x: a tensor, or a sequence or a dict of them for several inputs; y: as the loss says, a
        sequence or a dict by name for several outputs;
        sample_weight: (batch,), how much each sample counts. learning_rate: instead of the
        optimiser's for this call; that of tables, where it is another, changes in proportion.
        ShapeError, DTypeError and IndexOutOfRangeError for what does not fit, and nothing is
        updated then.
        """
        rates = self._rates_tensor
        if learning_rate is not None:
            rates = np.array(self._rates_of(learning_rate))
        arrays = self._packed_arrays(x, y) if sample_weight is None else None
        if arrays is not None:
            try:
                status = self._run(arrays, self._no_weight, 0, rates)
                if not status:
                    return float(self._loss[0])
            except Exception as error:
                if not is_refusal(error):
                    raise
        arrays = self._arrays(x, y, sample_weight)
        weight = self._no_weight if sample_weight is None else arrays[-1]
        given = arrays[: len(self._dtypes)]
        try:
            status = self._run(given, weight, int(sample_weight is not None), rates)
        except Exception as error:
            if not is_refusal(error):
                raise
            raise TvmLayersError(f"the compiled step refused what fits it: {error}") from error
        if status:
            self._refuse(status, arrays)
        return float(self._loss[0])

    def _run(self, given: Sequence[Array], weight: Any, weighted: int, rates: Any) -> int:
        self._last = given
        loss, arena = self._loss_tensor, self._arena_tensor
        return self._function(*given, weight, weighted, loss, arena, rates, self._threads)

    def _packed_arrays(self, x: Any, y: Any) -> list[Array] | None:
        """The inputs and y where they are arrays that compiled code takes as they are, which checks
        their shapes by itself; None for all others."""
        several = len(self._truths) > 1 and type(y) is tuple
        arrays = [*(x if type(x) is tuple else [x]), *(y if several else [y])]
        if len(arrays) != len(self._dtypes):
            return None
        for array, dtype in zip(arrays, self._dtypes, strict=True):
            if type(array) is not np.ndarray or array.dtype != dtype:
                return None
            if not (array.size and array.flags.carray):
                return None
        return arrays

    def predictions(self) -> Any:
        """What the model gave for the batch of the last call, before its update and in training
        mode: (batch, outputs), a copy; a list of them for several outputs."""
        made = self.predictions_by_output()
        return made if len(made) > 1 else made[0]

    def predictions_by_output(self) -> list[Array]:
        """`predictions`, always as a list."""
        sizes = diagnose.bind_sizes(self._entries[0], self._last)
        return [
            read_predictions(output["prediction"], self._scratch.array, sizes)
            for output in self.manifest["outputs"]
        ]

    def losses(self) -> dict[str, float]:
        """The loss of each output in the last call, by the output's name, without its weight."""
        return {name: float(loss) for name, loss in zip(self._outputs, self._loss[1:], strict=True)}

    # Inputs.

    def _arrays(self, x: Any, y: Any, sample_weight: Any) -> list[Array]:
        """Inputs, truth and sample weights as compiled code takes them; the errors of what does
        not fit."""
        given = self._by_name(x)
        imported = [tensors.import_array(value, name) for name, value in given.items()]
        arrays = [
            tensors.type_list(array, slot) if kind is None else array
            for (array, kind), slot in zip(imported, self._inputs, strict=True)
        ]
        kinds = [kind for _, kind in imported]
        for part, slot in zip(parts_of(y, self._outputs), self._truths, strict=True):
            arrays.append(truth_array(part, slot))
            kinds.append(tensors.identity)
        if sample_weight is not None:
            array, _ = tensors.import_array(sample_weight, "sample_weight")
            arrays.append(as_float(array, self._weight))
            kinds.append(tensors.identity)
        entry = self._entries[sample_weight is not None]
        _, sizes = diagnose.choose_entry([entry], entry.names, arrays, kinds)
        if not sizes.get("n", 1):
            raise ShapeError("a step expected at least one sample, got a batch of 0")
        return [tensors.pack(a, s.dtype) for a, s in zip(arrays, entry.inputs, strict=True)]

    def check(self, x: Any, y: Any, sample_weight: Any = None) -> None:
        """Raise what a call with these arguments would raise; nothing is computed."""
        arrays = self._arrays(x, y, sample_weight)
        for check in self.manifest["checks"]:
            if check["kind"] == "label":
                self._refuse_label(check, arrays)
            else:
                diagnose.check_input(check, self._entries[0], arrays)

    def _by_name(self, x: Any) -> dict[str, Any]:
        names = [slot.name for slot in self._inputs]
        if isinstance(x, Mapping):
            if sorted(x) != sorted(names):
                raise ConfigError(f"this model takes the inputs {names}, got {sorted(x)}")
            return {name: x[name] for name in names}
        values = list(x) if len(names) > 1 and isinstance(x, (list, tuple)) else [x]
        if len(values) != len(names):
            raise ConfigError(
                f"this model takes the inputs {names}, got {len(values)}: pass a tuple or a dict"
            )
        return dict(zip(names, values, strict=True))

    def _refuse(self, status: int, arrays: Sequence[Array]) -> NoReturn:
        for i, check in enumerate(self.manifest["checks"]):
            if status >> min(i, LAST_STATUS_BIT) & 1 and check["kind"] == "label":
                self._refuse_label(check, arrays)
        diagnose.raise_for_status(status, self.manifest["checks"], self._entries[0], arrays)

    def _refuse_label(self, check: Mapping[str, Any], arrays: Sequence[Array]) -> None:
        labels, classes = arrays[check["input"]], check["classes"]
        name = self._entries[0].inputs[check["input"]].name
        wrong = (labels < 0) | (labels >= classes)
        if wrong.any():
            place = int(np.argmax(wrong))
            raise IndexOutOfRangeError(
                f"label {labels[place]} at position {place} of {name} is none of the {classes} "
                f"classes that the model has outputs for (valid 0..{classes - 1}); nothing was "
                "updated"
            )

    # Rates and threads.

    def _rates_of(self, rate: float | None) -> tuple[float, float]:
        usual, of_tables = self.optimizer.learning_rate, self.table_optimizer.learning_rate
        if rate is None:
            return usual, of_tables
        rate = not_negative_real("a step", "learning_rate", rate)
        return rate, rate * of_tables / usual if usual else rate

    @property
    def learning_rate(self) -> float:
        """The learning rate of calls that give none; that of tables changes in proportion."""
        return float(self._rates[0])

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._rates[:] = self._rates_of(rate)

    @property
    def threads(self) -> int:
        """Threads that one call may use. Setting None takes the default, the physical cores."""
        return self._threads

    @threads.setter
    def threads(self, threads: int | None) -> None:
        self._threads = count_threads(threads)

    # Weights and states.

    @property
    def iterations(self) -> int:
        """How many steps were made."""
        return int(self._packed(self._rows[self.manifest["iterations"]])[0])

    def weights(self) -> dict[str, Array]:
        """Copies of the weights by name, as the model's layers have them: "dense/kernel" is
        (in, out)."""
        return {name: self._plain(name) for name in self._names("weight")}

    def state(self) -> dict[str, Array]:
        """Copies of the optimisers' states by name, such as "dense/kernel:m", each of the shape of
        its weight or with one number a row; and "iterations"."""
        return {name: self._plain(name) for name in self._names("state")}

    def set_weights(self, weights: Mapping[str, object]) -> None:
        """Take new weights by name, all or some; states stay.

        WeightsError, and nothing changes, where one is unknown, or has another shape or no numbers.
        """
        self._take(weights, self._names("weight"))

    def set_state(self, state: Mapping[str, object]) -> None:
        """Take new states by name, all or some; WeightsError as of `set_weights`."""
        self._take(state, self._names("state"))

    def update_model(self) -> Model:
        """The model, its layers with the weights that were trained."""
        made = self.weights()
        for layer in self.model.layers:
            names = [name for name in layer.weights if f"{layer.name}/{name}" in made]
            if names:
                layer.assign(
                    layer.check(
                        {
                            name: made.get(f"{layer.name}/{name}", weight)
                            for name, weight in layer.weights.items()
                        }
                    )
                )
        return self.model

    def compiled(self) -> Any:
        """The model compiled for inference with the weights as they are now, a `Compiled`.

        The first call compiles; later ones pack the weights anew.
        """
        from tvmlayers.codegen import compile
        from tvmlayers.codegen.fold import folded

        model = self.update_model()
        given = {
            f"{layer.name}/{key}": array
            for layer in folded(model, halves=False).graph.layers
            for key, array in {**layer.weights, **layer.operands()}.items()
        }
        # Which normalisations a Dense takes in follows from their weights.
        made = self._compiled
        if made is None or {row["name"] for row in made.manifest["weights"]} != set(given):
            self._compiled = compile(model, threads=self._threads)
        return self._compiled.with_weights(given)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and states as safetensors: whole, or not at all.

        A step of the same model, loss and optimisers that loads it goes on bit by bit.
        """
        arrays = {**self.weights(), **self.state()}
        described = json.dumps(self._description())
        with saving(path) as file:
            for chunk in chunks(arrays, {"format": _FORMAT, "step": described}):
                file.write(chunk)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on where `save` was called.

        WeightsError, and nothing changes, for a damaged file, or one of another model or of other
        optimisers.
        """
        arrays, metadata = read_arrays(Path(path))
        if metadata.get("format") != _FORMAT:
            raise WeightsError(f"{path} holds no training step; TrainingStep.save writes one")
        theirs, ours = json.loads(metadata["step"]), self._description()
        for key in ours:
            if theirs.get(key) != ours[key]:
                raise WeightsError(
                    f"{path} is of a step with {key} {theirs.get(key)}, and this one has "
                    f"{ours[key]}: compile the step as it was"
                )
        names = [*self._names("weight"), *self._names("state")]
        missing = [name for name in names if name not in arrays]
        if missing:
            raise WeightsError(f"{path} is of another model: it has no {', '.join(missing)}")
        self._take(arrays, names)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write a `.tvml` artefact that `tvmlayers.load_step` reads: machine code, weights and
        states, whole or not at all.

        It goes on bit by bit where this step is, in a process without compiler or torch.
        MissingDependencyError where there is no linker, SaveError where the file cannot be written.
        """
        if self._library is None:
            raise ConfigError("this step was made without its library and cannot be exported")
        rates = dict(zip(("optimizer", "tables"), map(float, self._rates), strict=True))
        now = {key: {**self.manifest[key], "learning_rate": rate} for key, rate in rates.items()}
        manifest = {**self.manifest, **now}
        artifact.write(
            path, manifest, self._library(), views(manifest, self._arena), form=STEP_FORMAT
        )

    def _description(self) -> dict[str, Any]:
        """What must be alike for a step to go on with another's state: not the learning rates."""
        kinds = {}
        for key in ("optimizer", "tables"):
            kinds[key] = {k: v for k, v in self.manifest[key].items() if k != "learning_rate"}
        return kinds

    def _names(self, role: str) -> list[str]:
        return [name for name, row in self._rows.items() if row["role"] == role]

    def _packed(self, row: Mapping[str, Any]) -> Array:
        return view(self._arena, row["offset"], tuple(row["shape"]), row["dtype"])

    def _plain(self, name: str) -> Array:
        row = self._rows[name]
        packed, plain = self._packed(row), tuple(row["plain"])
        if row["layout"] is not None:
            return np.array(unpack(packed, row["layout"]))
        return packed.copy() if packed.shape == plain else packed[: plain[0]].copy()

    def _take(self, given: Mapping[str, object], names: Sequence[str]) -> None:
        unknown = [name for name in given if name not in names]
        if unknown:
            raise WeightsError(f"a step of this model has no {unknown[0]!r}; it has {list(names)}")
        checked = {}
        for name, value in given.items():
            row = self._rows[name]
            where, plain = f"{row['role']} {name!r}", tuple(row["plain"])
            checked[name] = as_numbers(where, value, plain, row["dtype"])
        for name, array in checked.items():
            self._put(self._rows[name], array)
            derived = self._rows.get(f"{name}^T")
            if derived is not None:
                self._put(derived, np.ascontiguousarray(array.T))

    def _put(self, row: Mapping[str, Any], plain: Array) -> None:
        place = self._packed(row)
        if row["layout"] is not None:
            pack(plain, row["layout"], place)
        else:
            place[tuple(slice(0, length) for length in plain.shape)] = plain

    def __repr__(self) -> str:
        takes = ", ".join(f"{slot.name}: {slot.dtype}{slot.text()}" for slot in self._inputs)
        return (
            f"<TrainingStep ({takes}), {self.manifest['loss']}, {self.optimizer.kind}, "
            f"{self.iterations} steps made>"
        )
