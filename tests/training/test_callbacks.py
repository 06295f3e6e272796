"""Callbacks: when they stop, what they write, and a run that goes on where it was killed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers.errors import ConfigError, WeightsError

callbacks = tl.callbacks
RNG = np.random.default_rng(1)
X = RNG.normal(size=(40, 4)).astype(np.float32)
Y = (X @ RNG.normal(size=(4, 1))).astype(np.float32)


def make() -> tl.Sequential:
    return tl.Sequential([tl.Dense(5, activation="relu", input_dim=4), tl.Dense(1)])


FIRST = make().get_weights()


@pytest.fixture(scope="module")
def compiled() -> tl.Sequential:
    model = make()
    model.compile(tl.optimizers.Adam(0.01), "mse", metrics=["mae"])
    model.train_on_batch(X, Y)
    return model


@pytest.fixture
def model(compiled: tl.Sequential) -> tl.Sequential:
    begin(compiled)
    return compiled


def begin(model: tl.Sequential) -> None:
    """The weights and the state of a new run, of the same compiled step."""
    model.set_weights(FIRST)
    step = step_of(model)
    step.set_state({name: np.zeros_like(array) for name, array in step.state().items()})
    step.learning_rate = 0.01


def step_of(model: tl.Model) -> tl.TrainingStep:
    assert model.training_step is not None
    return model.training_step


class Scripted(callbacks.Callback):
    """Puts a number into the logs of each epoch, and the first bias to the number of the epoch."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = numbers

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["scripted"] = self.numbers[epoch]
        weights = self.model.get_weights()
        weights[-1][:] = epoch
        self.model.set_weights(weights)


def fit(model: tl.Sequential, *given: tl.callbacks.Callback, epochs: int = 6, **more: Any) -> Any:
    return model.fit(X, Y, epochs=epochs, callbacks=list(given), verbose=0, seed=3, **more)


@pytest.mark.parametrize(
    ("arguments", "mode", "numbers", "epochs", "best"),
    [
        ({"patience": 2}, "min", (5, 4, 4, 4, 1, 1), 4, 1),
        ({"patience": 2}, "max", (5, 4, 6, 6, 5, 1), 5, 2),
        ({"patience": 1, "min_delta": 0.5}, "min", (5, 4.6, 4, 1, 1, 1), 2, 0),
        ({"patience": 1, "start_from_epoch": 3}, "min", (1, 2, 3, 4, 3, 3), 6, 4),
        ({"patience": 2, "baseline": 3}, "min", (5, 4, 4, 2, 1, 1), 3, 1),
    ],
)
def test_early_stopping(
    model: tl.Sequential,
    arguments: dict[str, Any],
    mode: str,
    numbers: tuple[float, ...],
    epochs: int,
    best: int,
) -> None:
    stop = callbacks.EarlyStopping("scripted", mode=mode, restore_best_weights=True, **arguments)
    history = fit(model, Scripted(*numbers), stop)
    assert len(history.epoch) == epochs
    assert stop.best_epoch == best
    assert model.get_weights()[-1][0] == best
    assert history.history["scripted"] == list(numbers[:epochs])


def test_plateaus_lower_the_learning_rate(model: tl.Sequential) -> None:
    reduce = callbacks.ReduceLROnPlateau(
        "scripted", factor=0.5, patience=1, mode="min", cooldown=2, min_lr=0.004
    )
    history = fit(model, Scripted(5, 5, 5, 5, 5, 5), reduce).history
    assert history["learning_rate"] == pytest.approx([0.01, 0.01, 0.005, 0.005, 0.004, 0.004])


@pytest.mark.parametrize("schedule", [lambda epoch, rate: rate / 2, lambda e: 0.01 / 2 ** (e + 1)])
def test_schedules_set_the_learning_rate(model: tl.Sequential, schedule: Any) -> None:
    history = fit(model, callbacks.LearningRateScheduler(schedule), epochs=3).history
    assert history["learning_rate"] == pytest.approx([0.005, 0.0025, 0.00125])


def test_nan_stops_and_names_step_and_layer(
    model: tl.Sequential, capsys: pytest.CaptureFixture[str]
) -> None:
    class Breaks(callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if self.step.iterations == 4:
                kernel = self.step.weights()["dense_1/kernel"]
                kernel[2] = np.nan
                self.step.set_weights({"dense_1/kernel": kernel})

    stop = callbacks.TerminateOnNaN()
    history = model.fit(X, Y, 16, 5, 0, [Breaks(), stop])
    assert step_of(model).iterations == 5
    assert history.epoch == [0, 1]
    assert stop.said is not None
    assert stop.said.startswith("Step 5 (epoch 2, batch 1): the loss is not finite")
    assert "first layer with weights that are not finite is 'dense" in stop.said
    assert capsys.readouterr().out.strip() == stop.said


def test_nan_in_the_data_is_not_blamed_on_a_layer(model: tl.Sequential) -> None:
    x = X.copy()
    x[-1] = np.nan
    stop = callbacks.TerminateOnNaN()
    model.fit(x, Y, 39, 1, 0, [stop], shuffle=False)
    assert stop.said is not None
    assert stop.said.startswith("Step 2 (epoch 1, batch 1)")


def test_checkpoints_are_whole_models(model: tl.Sequential, tmp_path: Path) -> None:
    every = callbacks.ModelCheckpoint(tmp_path / "{epoch:02d}-{scripted:.1f}.safetensors")
    best = callbacks.ModelCheckpoint(
        tmp_path / "best.weights", "scripted", save_best_only=True, save_weights_only=True,
        mode="max", initial_value_threshold=1.5,
    )  # fmt: skip
    often = callbacks.ModelCheckpoint(tmp_path / "b{epoch}-{batch}.safetensors", save_freq=3)
    fit(model, Scripted(1, 3, 2), every, best, often, epochs=3)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        *("01-1.0.safetensors", "02-3.0.safetensors", "03-2.0.safetensors"),
        *("b2-1.safetensors", "b3-2.safetensors", "best.weights"),
    ]
    assert tl.load_model(tmp_path / "02-3.0.safetensors").get_weights()[-1][0] == 1
    model.load_weights(tmp_path / "best.weights")
    assert model.get_weights()[-1][0] == 1
    with pytest.raises(ConfigError, match="cannot make a name"):
        fit(model, callbacks.ModelCheckpoint(tmp_path / "{nothing}"), epochs=1)


def test_csv_has_a_line_an_epoch(model: tl.Sequential, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    more = {"validation_split": 0.5, "validation_freq": 2}
    history = fit(model, callbacks.CSVLogger(path), epochs=2, **more).history
    fit(model, callbacks.CSVLogger(path, append=True), epochs=3, initial_epoch=2)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [float(row["loss"]) for row in rows[:2]] == history["loss"]
    assert [row["val_mae"] for row in rows] == ["NA", str(history["val_mae"][0]), "NA"]


class Killed(BaseException):
    """Ends a run where nothing is cleaned up."""


class Kill(callbacks.Callback):
    def __init__(self, step: int) -> None:
        self.at = step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.step.iterations == self.at:
            raise Killed


def listeners(folder: Path) -> list[tl.callbacks.Callback]:
    """Callbacks with a state, which matter for how the run goes on."""
    return [
        callbacks.BackupAndRestore(folder),
        callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=0.05),
        callbacks.EarlyStopping("val_loss", restore_best_weights=True, patience=3, min_delta=0.1),
    ]


@pytest.mark.parametrize("steps", [3, 5, 7])
def test_a_killed_run_goes_on_bit_by_bit(model: tl.Sequential, tmp_path: Path, steps: int) -> None:
    def run(folder: str, *more: tl.callbacks.Callback) -> Any:
        given = [*listeners(tmp_path / folder), *more]
        return model.fit(X, Y, 16, 8, 0, given, validation_split=0.2, seed=5)

    wanted = run("whole")
    weights, state = model.get_weights(), step_of(model).state()
    assert len(wanted.epoch) > 3
    begin(model)
    with pytest.raises(Killed):
        run("killed", Kill(steps))
    begin(model)  # another process: nothing is left but the folder
    again = run("killed")
    assert again.history == wanted.history
    assert again.epoch == wanted.epoch
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    assert all(np.array_equal(state[name], a) for name, a in step_of(model).state().items())
    assert list((tmp_path / "killed").iterdir()) == []


def test_the_seed_that_was_drawn_is_kept(model: tl.Sequential, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        model.fit(X, Y, 16, 2, 0, [callbacks.BackupAndRestore(tmp_path), Kill(4)])
    before = step_of(model).state()["iterations"]
    assert before == 4
    found = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for path in tmp_path.glob("*.*"):
            (tmp_path / folder / path.name).write_bytes(path.read_bytes())
        begin(model)
        model.fit(X, Y, 16, 2, 0, [callbacks.BackupAndRestore(tmp_path / folder)])
        found.append(model.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_a_backup_of_another_run_is_refused(model: tl.Sequential, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(model, callbacks.BackupAndRestore(tmp_path), Kill(3), epochs=3)
    left = model.get_weights()
    other = callbacks.EarlyStopping("loss")
    with pytest.raises(ConfigError, match="go on with the same"):
        fit(model, callbacks.BackupAndRestore(tmp_path), other)
    assert all(np.array_equal(a, b) for a, b in zip(left, model.get_weights(), strict=True))
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(WeightsError, match="damaged"):
        fit(model, callbacks.BackupAndRestore(tmp_path))


@pytest.mark.parametrize(
    ("make_it", "said"),
    [
        (lambda: callbacks.EarlyStopping(mode="less"), "mode"),
        (lambda: callbacks.EarlyStopping(patience=-1), "patience"),
        (lambda: callbacks.ReduceLROnPlateau(factor=1.0), "factor below 1"),
        (lambda: callbacks.LearningRateScheduler(0.1), "a function"),
        (lambda: callbacks.ModelCheckpoint("a", save_freq=0), "save_freq"),
    ],
)
def test_wrong_arguments_are_refused(make_it: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_it()
