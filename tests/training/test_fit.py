"""fit, evaluate and predict: Keras's semantics, and what they refuse."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tvmlayers as tl
from tvmlayers.errors import (
    ConfigError,
    DTypeError,
    IndexOutOfRangeError,
    ShapeError,
    TvmLayersError,
    UnknownNameError,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 50)
WEIGHTS = RNG.uniform(0, 2, 50).astype(np.float32)


def make() -> tl.Sequential:
    return tl.Sequential(
        [tl.Dense(8, activation="tanh", input_dim=6), tl.Dense(3, activation="softmax")]
    )


class Fixture:
    """One compiled step for all tests: each begins with the same weights and states."""

    def __init__(self) -> None:
        self.model = make()
        self.model.compile(
            tl.optimizers.Adam(0.01),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            weighted_metrics=[tl.metrics.SparseCategoricalAccuracy(name="weighted")],
        )
        self.model.train_on_batch(X[:4], Y[:4])
        self.first = [np.copy(weight) for weight in make().get_weights()]
        self.state = {name: np.zeros_like(a) for name, a in self.step.state().items()}

    @property
    def step(self) -> tl.TrainingStep:
        assert self.model.training_step is not None
        return self.model.training_step

    def begin(self) -> tl.Sequential:
        self.model.set_weights(self.first)
        self.step.set_weights(self.model.weights)
        self.step.set_state(self.state)
        self.step.learning_rate = 0.01
        self.model.reset_metrics()
        return self.model


SHARED: list[Fixture] = []


@pytest.fixture
def model() -> tl.Sequential:
    if not SHARED:
        SHARED.append(Fixture())
    return SHARED[0].begin()


def step_of(model: tl.Model) -> tl.TrainingStep:
    assert model.training_step is not None
    return model.training_step


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def moves(model: tl.Model) -> Callable[[], bool]:
    """Asks whether anything has moved since."""
    before = {**step_of(model).weights(), **step_of(model).state()}

    def moved() -> bool:
        after = {**step_of(model).weights(), **step_of(model).state()}
        return not all(np.array_equal(before[name], after[name]) for name in before)

    return moved


def crossentropy(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -np.log(p[np.arange(len(y)), y].astype(np.float64))


def test_an_epoch_is_its_steps(model: tl.Sequential) -> None:
    """Batches in order, the last one smaller; the loss is the mean over samples, and the metrics
    are of the predictions before each update."""
    step = step_of(model)
    total, right, weighted = 0.0, 0.0, 0.0
    for rows in (slice(0, 16), slice(16, 32), slice(32, 48), slice(48, 50)):
        p = step.compiled()(X[rows])
        total += step(X[rows], Y[rows], WEIGHTS[rows]) * len(X[rows])
        hits = p.argmax(1) == Y[rows]
        right += hits.sum()
        weighted += (hits * WEIGHTS[rows]).sum()
        np.testing.assert_allclose(step.predictions(), p, rtol=1e-5, atol=1e-7)
    wanted = list(step.weights().values())
    SHARED[0].begin()
    history = model.fit(
        X, Y, batch_size=16, shuffle=False, sample_weight=WEIGHTS, verbose=0
    ).history
    assert history["loss"] == [pytest.approx(total / 50, rel=1e-12)]
    assert history["accuracy"] == [right / 50]
    assert history["weighted"] == [pytest.approx(weighted / WEIGHTS.sum(), rel=1e-6)]
    assert same(model.get_weights(), wanted)


def test_what_was_trained_is_what_predicts(model: tl.Sequential) -> None:
    model.fit(X, Y, epochs=2, verbose=0)
    made = model.predict(X, batch_size=7, verbose=0)
    kernel, bias, kernel_1, bias_1 = model.get_weights()
    logits = np.tanh(X @ kernel + bias) @ kernel_1 + bias_1
    np.testing.assert_allclose(made, np.asarray(torch.softmax(torch.tensor(logits), 1)), rtol=1e-5)
    loss, accuracy, weighted = model.evaluate(X, Y, sample_weight=WEIGHTS, verbose=0)
    losses = crossentropy(made, Y) * WEIGHTS
    assert loss == pytest.approx(losses.mean(), rel=1e-5)
    hits = made.argmax(1) == Y
    assert accuracy == hits.mean()
    assert weighted == pytest.approx((hits * WEIGHTS).sum() / WEIGHTS.sum(), rel=1e-6)
    named = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert list(named) == model.metrics_names == ["loss", "accuracy", "weighted"]


def test_the_last_samples_are_held_out_before_shuffling(model: tl.Sequential) -> None:
    fitted = model.fit(X, Y, validation_split=0.3, seed=1, verbose=0, class_weight={0: 3.0})
    assert list(fitted.history) == [
        *("loss", "accuracy", "weighted"),
        *("val_loss", "val_accuracy", "val_weighted"),
    ]
    # 50 * 0.7 is 35, and floats say 35 too; class weights are for what is trained on alone.
    held = crossentropy(model.predict(X[35:], verbose=0), Y[35:])
    assert fitted.history["val_loss"][0] == pytest.approx(held.mean(), rel=1e-5)
    first = model.get_weights()
    SHARED[0].begin()
    model.fit(X[:35], Y[:35], seed=1, verbose=0, sample_weight=np.where(Y[:35] == 0, 3.0, 1.0))
    assert same(first, model.get_weights())


def test_a_seed_gives_the_same_bits_on_any_number_of_threads(model: tl.Sequential) -> None:
    found = []
    for seed, threads in ((7, 1), (7, 2), (8, 1)):
        SHARED[0].begin()
        step_of(model).threads = threads
        model.fit(X, Y, batch_size=16, epochs=2, seed=seed, verbose=0)
        found.append(model.get_weights())
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def as_lists() -> Any:
    return X.tolist(), Y.tolist()


def batches() -> list[Any]:
    return [(X[i : i + 32], Y[i : i + 32]) for i in (0, 32)]


class Samples(torch.utils.data.Dataset):  # type: ignore[misc]
    def __len__(self) -> int:
        return 50

    def __getitem__(self, place: int) -> Any:
        return torch.from_numpy(X)[place], int(Y[place])


class Streamed(torch.utils.data.IterableDataset):  # type: ignore[misc]
    def __iter__(self) -> Iterator[Any]:
        return iter((X[i], Y[i]) for i in range(50))


TENSORS = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
FORMS: dict[str, Callable[[], Any]] = {
    "lists": as_lists,
    "torch": lambda: (torch.from_numpy(X), torch.from_numpy(Y)),
    "dict": lambda: ({"input": X}, Y[:, None]),
    "a list of one": lambda: ([X], Y),
    "batches": lambda: (batches(),),
    "generator": lambda: (iter(batches()),),
    "loader": lambda: (torch.utils.data.DataLoader(TENSORS, 32),),
    "dataset": lambda: (Samples(),),
    "iterable dataset": lambda: (Streamed(),),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_trains_alike(model: tl.Sequential, form: str) -> None:
    model.fit(X, Y, shuffle=False, verbose=0)
    wanted = model.get_weights()
    SHARED[0].begin()
    given = FORMS[form]()
    if form == "dict":
        given = ({model.inputs[0].name: X}, given[1])
    model.fit(*given, shuffle=False, verbose=0)
    assert same(wanted, model.get_weights())


def test_steps_of_an_epoch_go_through_the_data_in_turn(model: tl.Sequential) -> None:
    model.fit(X, Y, batch_size=16, steps_per_epoch=3, epochs=2, shuffle=False, verbose=0)
    wanted = model.get_weights()
    SHARED[0].begin()
    for begin in (0, 16, 32, 48, 0, 16):
        model.train_on_batch(X[begin : begin + 16], Y[begin : begin + 16])
    assert same(wanted, model.get_weights())
    SHARED[0].begin()
    with pytest.warns(UserWarning, match="ended after 1 of the 2 batches"):
        history = model.fit(iter(batches()[:1]), steps_per_epoch=2, epochs=5, verbose=0)
    assert history.epoch == [0]


def test_weights_that_were_set_are_trained_on(model: tl.Sequential) -> None:
    model.fit(X, Y, verbose=0, seed=1)
    wanted = model.get_weights()
    SHARED[0].begin()
    other = copy.deepcopy(model)
    assert other.training_step is None
    model.set_weights([weight * 0 for weight in model.get_weights()])
    model.set_weights(other.get_weights())
    model.fit(X, Y, verbose=0, seed=1)
    assert same(wanted, model.get_weights())


@pytest.mark.parametrize("labels", [np.uint8, np.int16, np.uint64])
def test_numbers_of_other_dtypes_are_trained_on_as_in_keras(
    model: tl.Sequential, labels: Any
) -> None:
    whole = np.round(4 * X)
    model.fit(whole, Y, verbose=0, seed=1)
    wanted, scores = model.get_weights(), model.evaluate(whole, Y, verbose=0)
    for given in (whole.astype(np.float64), whole.astype(np.int8), torch.from_numpy(whole).half()):
        SHARED[0].begin()
        model.fit(given, Y.astype(labels), verbose=0, seed=1)
        assert same(wanted, model.get_weights())
        assert model.evaluate(given, Y.astype(labels), verbose=0) == scores


def test_ctrl_c_leaves_the_weights_of_a_whole_step(model: tl.Sequential, tmp_path: Path) -> None:
    class Interrupts(tl.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.step.iterations == 6:
                signal.raise_signal(signal.SIGINT)

    path = tmp_path / "last.safetensors"
    kept = tl.callbacks.ModelCheckpoint(path)
    # A shell starts what runs in the background with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, Y, 16, 3, 0, [kept, Interrupts()], shuffle=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert step_of(model).iterations == 6
    assert same(model.get_weights(), step_of(model).weights().values())
    checkpoint = tl.load_model(path).get_weights()
    SHARED[0].begin()
    model.fit(X, Y, 16, 1, 0, shuffle=False)
    assert same(checkpoint, model.get_weights())


@pytest.mark.parametrize(
    ("x", "y", "more", "error", "said"),
    [
        (X, np.where(np.arange(50) == 41, 3, Y), {}, IndexOutOfRangeError, "3 at position 41"),
        (X, np.where(np.arange(50) == 41, -1, Y), {}, IndexOutOfRangeError, "-1 at position 41"),
        (X, Y[:20], {}, ShapeError, "y has 20 samples and x has 50"),
        (X, None, {}, ConfigError, "expected y"),
        (X[:0], Y[:0], {}, ShapeError, "at least one sample"),
        (X.astype(object), Y, {}, DTypeError, "expected float32, got object"),
        (X[:, :4], Y, {}, ShapeError, "6 features"),
        (X, Y + 0.5, {}, DTypeError, "integers"),
        (X, np.array(["a"] * 50), {}, DTypeError, "numbers"),
        (X, Y, {"sample_weight": WEIGHTS[:3]}, ShapeError, "sample_weight has 3"),
        (X, Y, {"sample_weight": WEIGHTS, "class_weight": {0: 1.0}}, ConfigError, "not both"),
        (X, Y, {"class_weight": [1.0]}, ConfigError, "a dict"),
        (X, Y, {"batch_size": 0}, ConfigError, "batch_size of at least 1"),
        (X, Y, {"epochs": -1}, ConfigError, "epochs of at least 0"),
        (X, Y, {"validation_split": 1.5}, ConfigError, "validation_split=1.5"),
        (X, Y, {"validation_data": (X, Y[:9])}, ShapeError, "y has 9 samples"),
        (X, Y, {"validation_data": (X, Y + 1)}, IndexOutOfRangeError, "label 3"),
        (X, Y, {"callbacks": [print]}, ConfigError, "tl.callbacks"),
        (X, Y, {"verbose": "loud"}, ConfigError, "verbose"),
        (X, Y, {"steps_per_epoch": 0}, ConfigError, "steps_per_epoch"),
        ({"other": X}, Y, {}, ConfigError, "takes the inputs"),
        (iter(batches()), None, {"epochs": 2}, ConfigError, "steps_per_epoch"),
        ([[1.0], [1.0, 2.0]], Y[:2], {}, ShapeError, "cannot become one"),
        (torch.utils.data.DataLoader(TENSORS), Y, {}, ConfigError, "leave them out"),
        (
            *(X, Y, {"callbacks": tl.callbacks.EarlyStopping()}, ConfigError),
            "got no validation data",
        ),
        (
            *(X, Y, {"callbacks": tl.callbacks.EarlyStopping("mine")}, ConfigError),
            "mode='min' or mode='max'",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_moves(
    model: tl.Sequential, x: Any, y: Any, more: dict[str, Any], error: type[Exception], said: str
) -> None:
    moved = moves(model)
    with pytest.raises(error, match=said):
        model.fit(x, y, **{"verbose": 0, **more})
    assert not moved()


def test_a_bad_batch_of_a_stream_leaves_those_before(model: tl.Sequential) -> None:
    good, bad = batches()
    with pytest.raises(IndexOutOfRangeError, match="label"):
        model.fit([good, (bad[0], bad[1] + 3)], verbose=0)
    left = model.get_weights()
    SHARED[0].begin()
    model.train_on_batch(*good)
    assert same(left, model.get_weights())


def test_evaluate_names_the_place_of_a_label(model: tl.Sequential) -> None:
    with pytest.raises(IndexOutOfRangeError, match="label 3 at position 41"):
        model.evaluate(X, np.where(np.arange(50) == 41, 3, Y), batch_size=8, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"loss": "cross"}, UnknownNameError, "unknown loss 'cross'"),
        ({"optimizer": "adamm"}, UnknownNameError, "Did you mean 'adam'"),
        ({"metrics": ["acuracy"]}, UnknownNameError, "Did you mean 'accuracy'"),
        ({"weighted_metrics": [3]}, ConfigError, "objects of tl.metrics"),
        ({"metrics": ["mse", "mse"]}, ConfigError, "two metrics are called 'mse'"),
        ({"loss": None}, ConfigError, "expected a loss"),
    ],
)
def test_names_are_checked_before_anything_is_built(
    arguments: dict[str, Any], error: type[TvmLayersError], said: str
) -> None:
    model = make()
    with pytest.raises(error, match=said):
        model.compile(**{"loss": "mse", **arguments})
    with pytest.raises(ConfigError, match=r"call model\.compile"):
        model.fit(X, Y)


def test_two_inputs_come_as_a_list_or_by_name() -> None:
    a, b = tl.Input((4,), name="a"), tl.Input((3,), name="b")
    model = tl.Model([a, b], tl.Dense(1)(tl.Concatenate()([a, b])))
    model.compile("sgd", "mse", metrics=["mae"])
    xs, y = [X[:, :4], X[:, :3]], X[:, 5]
    first = model.get_weights()
    model.fit(xs, y, shuffle=False, verbose=0)
    wanted = model.get_weights()
    model.set_weights(first)
    model.fit({"b": xs[1], "a": xs[0]}, y, shuffle=False, verbose=0)
    assert same(wanted, model.get_weights())
    made = model.predict(xs, verbose=0)
    loss, mae = model.evaluate(xs, y[:, None], verbose=0)
    assert loss == pytest.approx(((made[:, 0] - y) ** 2).mean(), rel=1e-5)
    assert mae == pytest.approx(np.abs(made[:, 0] - y).mean(), rel=1e-5)
    with pytest.raises(ConfigError, match="takes the inputs"):
        model.fit(xs[0], y, verbose=0)
    with pytest.raises(ShapeError, match="'b' has 9 samples"):
        model.fit([xs[0], xs[1][:9]], y, verbose=0)


def test_what_is_shown(model: tl.Sequential, capsys: pytest.CaptureFixture[str]) -> None:
    model.fit(X, Y, epochs=2, verbose=0)
    assert capsys.readouterr().out == ""
    model.fit(X, Y, epochs=2, validation_split=0.2)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("Epoch 1/2: loss ")
    assert "val_weighted" in second
    model.evaluate(X, Y)
    assert capsys.readouterr().out.startswith("loss ")
