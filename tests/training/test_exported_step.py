"""Exported steps go on where they were, without compiler and torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvmlayers as tl
from tests.fuzz.artefacts import forge, read_members
from tvmlayers import cli, optimizers
from tvmlayers.artifact.file import MANIFEST

IDS = np.random.default_rng(0).integers(0, 30, (7, 5))
LABELS = np.arange(7) % 3
RATE = 0.005
ELSEWHERE = """
import json, sys
import numpy as np
import tvmlayers as tl
step = tl.load_step(sys.argv[1], threads=1)
ids, labels = (np.array(each) for each in json.load(sys.stdin))
losses = [step(ids, labels) for _ in range(3)]
step.export(sys.argv[2])
print(json.dumps([losses, step.iterations, step.predictions().tolist(), step.learning_rate]))
print(json.dumps(sorted({"tvm", "torch"} & set(sys.modules))))
"""


@pytest.fixture(scope="module")
def step() -> tl.TrainingStep:
    model = tl.Sequential(
        [
            tl.Embedding(30, 8, input_length=5, seed=1),
            tl.Flatten(),
            tl.Dense(20, "relu", seed=2),
            tl.BatchNormalization(),
            tl.Dropout(0.3, seed=3),
            tl.Dense(3, "softmax", seed=4),
        ]
    )
    made = tl.compile_step(
        model,
        "sparse_categorical_crossentropy",
        optimizers.Adam(0.01),
        tables=optimizers.Adagrad(0.02),
    )
    made(IDS, LABELS)
    made.learning_rate = RATE
    return made


@pytest.fixture(scope="module")
def exported(step: tl.TrainingStep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "step.tvml"
    step.export(path)
    return path


def test_another_process_goes_on_bit_by_bit_without_compiler_and_torch(
    step: tl.TrainingStep, exported: Path, tmp_path: Path
) -> None:
    begin, again = tmp_path / "begin.safetensors", tmp_path / "again.tvml"
    step.save(begin)
    command = [sys.executable, "-c", ELSEWHERE, str(exported), str(again)]
    given = json.dumps([IDS.tolist(), LABELS.tolist()])
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, imported = done.stdout.splitlines()
    losses = [step(IDS, LABELS) for _ in range(3)]
    assert json.loads(first) == [losses, step.iterations, step.predictions().tolist(), RATE]
    assert json.loads(imported) == []
    loaded = tl.load_step(again)
    for name, array in {**step.weights(), **step.state()}.items():
        assert np.array_equal(array, {**loaded.weights(), **loaded.state()}[name]), name
    step.load(begin)  # for the other tests


def test_a_loaded_step_serves_and_saves_as_the_one_that_was_compiled(
    step: tl.TrainingStep, exported: Path, tmp_path: Path
) -> None:
    loaded = tl.load_step(exported)
    dense = next(layer for layer in loaded.model.layers if layer.name == "dense")
    assert np.array_equal(dense.get_weights()[0], step.weights()["dense/kernel"])
    assert np.array_equal(loaded.compiled()(IDS), step.compiled()(IDS))
    loaded.save(tmp_path / "state.safetensors")
    step.load(tmp_path / "state.safetensors")
    with pytest.raises(tl.IndexOutOfRangeError, match="label 3 at position 0"):
        loaded(IDS, LABELS + 3)
    with pytest.raises(tl.IndexOutOfRangeError, match="input"):
        loaded(IDS + 30, LABELS)


def test_inspect_says_what_a_step_is(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(exported)]) == 0
    told = capsys.readouterr().out
    assert "optimizer: class_name=Adam" in told
    assert f"learning_rate={RATE}" in told
    assert "loss: SparseCategoricalCrossentropy" in told


def test_steps_and_models_are_told_apart(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(tl.ArtifactError, match=r"training step, which tvmlayers\.load_step reads"):
        tl.load(exported)
    tl.compile(tl.Dense(2, input_dim=2)).save(tmp_path / "model.tvml")
    with pytest.raises(tl.ArtifactError, match=r"compiled model, which tvmlayers\.load reads"):
        tl.load_step(tmp_path / "model.tvml")
    (tmp_path / "damaged.tvml").write_bytes(exported.read_bytes()[:-200])
    with pytest.raises(tl.ArtifactError, match="damaged"):
        tl.load_step(tmp_path / "damaged.tvml")
    assert cli.main(["update", str(exported), "--weights", str(tmp_path / "none")]) == 2


def _wide(manifest: dict[str, Any]) -> None:
    layout = next(row["layout"] for row in manifest["weights"] if row["layout"])
    layout["width"] = 10**30


def _square(manifest: dict[str, Any]) -> None:
    manifest["outputs"][0]["truth"]["shape"] *= 2


def _no_optimizer(manifest: dict[str, Any]) -> None:
    manifest["optimizer"]["class_name"] = "Dream"


@pytest.mark.parametrize("change", [_wide, _square, _no_optimizer])
def test_a_manifest_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], None], exported: Path, tmp_path: Path
) -> None:
    members = read_members(exported)
    manifest = json.loads(members[MANIFEST])
    change(manifest)
    forge(tmp_path / "step.tvml", {**members, MANIFEST: json.dumps(manifest).encode()})
    with pytest.raises((tl.ArtifactError, tl.ConfigError)):
        tl.load_step(tmp_path / "step.tvml")


def test_a_step_for_another_machine_is_exported_and_not_called(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    layer = tl.Dense(2, input_dim=3)
    step = tl.compile_step(layer, "mse", target="neoverse-n1")
    with pytest.raises(tl.TargetError, match=r"this step was compiled for neoverse-n1.*export it"):
        step(np.ones((4, 3), np.float32), np.ones((4, 2), np.float32))
    step.export(tmp_path / "step.tvml")
    with pytest.raises(tl.TargetError, match="compiled for neoverse-n1"):
        tl.load_step(tmp_path / "step.tvml")
