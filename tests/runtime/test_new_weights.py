"""New weights for compiled models: the machine code stays, and every call is of one set of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from together import together

import tvmlayers as tl
from tvmlayers import cli
from tvmlayers.runtime.compiled import Compiled

torch = pytest.importorskip("torch")
IDS = np.random.default_rng(0).integers(0, 50, (7, 6))


def make_model(seed: int, dtype: str = "float32") -> tl.Model:
    """Tables, and kernels of whole panels, of narrow ones and of one column."""
    rng = np.random.default_rng(seed)
    words = tl.Input(shape=(6,), name="words")
    features = tl.Flatten()(tl.Embedding(50, 8, dtype=dtype, name="table")(words))
    hidden = tl.Dense(70, "relu", dtype=dtype, name="hidden")(features)
    plain = tl.Dense(3, use_bias=False, dtype=dtype, name="plain")(hidden)
    score = tl.Dense(1, dtype=dtype, name="score")(hidden)
    bag = tl.EmbeddingBag(50, 5, mode="sum", dtype=dtype, name="bag")(words)
    model = tl.Model(words, tl.Concatenate()([plain, score, bag]))
    model.set_weights([rng.normal(size=w.shape) / 8 for w in model.get_weights()])
    return model


OLD, NEW = make_model(1), make_model(2)


@pytest.fixture
def compiled() -> Compiled:
    """A copy of the one compiled model, with the old weights."""
    return _COMPILED.with_weights(OLD.weights)


_COMPILED = tl.compile(make_model(3), threads=2)
OF_OLD, OF_NEW = (_COMPILED.with_weights(model.weights)(IDS) for model in (OLD, NEW))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", ["native", "x86-64-v3"])
def test_new_weights_are_packed_as_the_compiler_packs_them(dtype: str, target: str) -> None:
    updated = tl.compile(make_model(1, dtype), target)
    updated.set_weights(make_model(2, dtype).get_weights())
    wanted = tl.compile(make_model(2, dtype), target)
    np.testing.assert_array_equal(updated._arena, wanted._arena)
    np.testing.assert_array_equal(updated(IDS), wanted(IDS))
    assert tl.verify(updated).ok


def test_weights_of_the_matrix_unit_are_packed_as_the_compiler_packs_them() -> None:
    models = [tl.Sequential([tl.Dense(40, input_dim=33, seed=seed)]) for seed in (1, 2)]
    updated, wanted = (tl.compile(model, "sapphirerapids") for model in models)
    assert updated.manifest["weights"][0]["layout"]["has_parts"]
    updated.set_weights(models[1].weights)
    np.testing.assert_array_equal(updated._arena, wanted._arena)


@pytest.mark.parametrize("give", [tl.Model.get_weights, lambda model: model.weights])
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, lambda w: w.astype(np.float64)])
def test_weights_come_as_a_list_or_by_name(
    compiled: Compiled, give: Callable[[tl.Model], Any], kind: Callable[[Any], Any]
) -> None:
    given = give(NEW)
    if isinstance(given, dict):
        given = {name: kind(weight) for name, weight in given.items()}
    else:
        given = [kind(weight) for weight in given]
    compiled.set_weights(given)
    np.testing.assert_array_equal(compiled(IDS), OF_NEW)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_every_way_of_calling_sees_the_new_weights(compiled: Compiled, kind: Any) -> None:
    ids, out = kind(IDS), kind(np.empty_like(OF_OLD))
    calls: list[Callable[[], Any]] = [
        lambda: compiled(ids),
        lambda: compiled(words=ids),
        lambda: compiled(ids, out=out),
        lambda: compiled(kind(IDS.astype(np.int32))),
        compiled.bind(ids),
    ]
    for _ in range(2):
        for call in calls:
            np.testing.assert_array_equal(np.asarray(call()), OF_OLD)
    compiled.set_weights(NEW.weights)
    for _ in range(2):
        for call in calls:
            np.testing.assert_array_equal(np.asarray(call()), OF_NEW)


def test_a_model_with_its_own_weights_leaves_the_first_as_it_is(compiled: Compiled) -> None:
    other = compiled.with_weights(NEW.weights)
    np.testing.assert_array_equal(other(IDS), OF_NEW)
    np.testing.assert_array_equal(compiled(IDS), OF_OLD)


def _changed(**changes: Any) -> dict[str, Any]:
    weights = {**NEW.weights, **changes}
    return {name: value for name, value in weights.items() if value is not None}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (_changed(**{"hidden/bias": None}), r"missing 'hidden/bias'; unknown none"),
        (_changed(**{"hiden/bias": 1}), r"missing none; unknown 'hiden/bias'; it has 'table/"),
        ([1, 2], r"expected 7 weights \(table/embeddings \(50, 8\), .*got 2"),
        (
            _changed(**{"hidden/kernel": np.zeros((70, 48))}),
            r"'hidden/kernel' expected shape \(48, 70\), got \(70, 48\); .* transpose it",
        ),
        (_changed(**{"score/bias": np.zeros(2)}), r"'score/bias' expected shape \(1,\), got \(2,"),
        (_changed(**{"plain/kernel": np.zeros((70, 3), complex)}), "'plain/kernel' .*complex128"),
        (_changed(**{"score/kernel": [["a"]] * 70}), "'score/kernel' expected float32 numbers"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(
    compiled: Compiled, weights: Any, message: str
) -> None:
    with pytest.raises(tl.WeightsError, match=message):
        compiled.set_weights(weights)
    np.testing.assert_array_equal(compiled(IDS), OF_OLD)


def test_each_call_is_of_the_old_or_of_the_new_weights(compiled: Compiled) -> None:
    """Also those that are learnt, refused or bound while weights change."""
    wrong: list[str] = []
    done = threading.Event()

    def work(name: str, call: Callable[[], Any]) -> None:
        while not done.is_set():
            got = np.asarray(call())
            if not (np.array_equal(got, OF_OLD) or np.array_equal(got, OF_NEW)):
                wrong.append(name)

    ids = torch.from_numpy(IDS)
    bound = compiled.bind(IDS)
    calls: dict[str, Callable[[], Any]] = {
        "numpy": lambda: compiled(IDS),
        "torch": lambda: compiled(ids),
        "named": lambda: compiled(words=IDS),
        "bound": bound,
        "fresh": lambda: compiled.bind(IDS)(),
    }
    threads = [threading.Thread(target=work, args=each) for each in calls.items()]
    for thread in threads:
        thread.start()
    for turn in range(300):
        compiled.set_weights((OLD, NEW)[turn % 2].weights)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    for call in calls.values():
        np.testing.assert_array_equal(np.asarray(call()), OF_NEW)


def test_several_threads_that_set_weights_leave_the_weights_of_one(compiled: Compiled) -> None:
    def work(model: tl.Model) -> None:
        for _ in range(50):
            compiled.set_weights(model.weights)

    together(work, (OLD, NEW))
    got = compiled(IDS)
    assert np.array_equal(got, OF_OLD) or np.array_equal(got, OF_NEW)


def test_an_artefact_takes_a_file_of_weights(compiled: Compiled, tmp_path: Path) -> None:
    compiled.save(tmp_path / "old.tvml")
    NEW.save_weights(tmp_path / "new.safetensors")
    loaded = tl.load(tmp_path / "old.tvml", threads=1)
    loaded.load_weights(tmp_path / "new.safetensors")
    np.testing.assert_array_equal(loaded(IDS), OF_NEW)
    assert loaded.threads == 1
    loaded.save(tmp_path / "new.tvml")
    np.testing.assert_array_equal(tl.load(tmp_path / "new.tvml")(IDS), OF_NEW)


@pytest.mark.parametrize("target", ["native", "neoverse-n1"])
def test_the_command_updates_an_artefact_of_any_machine(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [tl.Sequential([tl.Dense(5, input_dim=9, name="only", seed=s)]) for s in (1, 2)]
    old, new = ("old.tvml", "new.tvml")
    try:
        tl.compile(models[0], target).save(tmp_path / old)
    except tl.TargetError:
        pytest.skip("no linker for this target")
    models[1].save(tmp_path / "model.safetensors")
    given = str(tmp_path / old), "--weights", str(tmp_path / "model.safetensors")
    assert cli.main(["update", *given, "-o", str(tmp_path / new)]) == 0
    assert capsys.readouterr().out.replace("\n", "").startswith(f"{tmp_path / new}: 2 weights")
    before, after = (_weights(tmp_path / name) for name in (old, new))
    assert not np.array_equal(before, after)
    assert cli.main(["update", *given]) == 0
    np.testing.assert_array_equal(_weights(tmp_path / old), after)
    if target == "native":
        x = np.ones((2, 9), np.float32)
        np.testing.assert_array_equal(tl.load(tmp_path / new)(x), tl.compile(models[1])(x))
    wrong = tmp_path / "wrong.safetensors"
    tl.Sequential([tl.Dense(4, input_dim=9, name="only")]).save_weights(wrong)
    capsys.readouterr()
    assert cli.main(["update", str(tmp_path / old), "--weights", str(wrong)]) == 2
    assert "'only/kernel' expected shape (9, 5), got (9, 4)" in capsys.readouterr().err


def _weights(path: Path) -> Any:
    from tvmlayers.artifact import file as artifact

    return artifact.read(path, to_run=False)[2]
