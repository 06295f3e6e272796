"""Artefacts for every ARM target on an emulated core such as it: right results, clear refusals."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from agreement import Twin, indices
from board import Board
from machine import EMULATED, REPOSITORY, Machine
from samples import every_input, sample

import tvmlayers as tl
from tvmlayers import targets

pytestmark = pytest.mark.arm

TARGETS = tuple(EMULATED)
Boards = dict[str, Board]


@cache
def classifier(target: str) -> Twin:
    layers = [
        tl.Embedding(5000, 64, input_length=10),
        tl.Flatten(),
        tl.Dense(128, "relu"),
        tl.Dense(10, "softmax"),
    ]
    return Twin(tl.Sequential(layers), target=target)


@cache
def text(target: str) -> Twin:
    layers = [tl.EmbeddingBag(5000, 64), tl.Dense(32, "relu"), tl.Dense(4, "softmax")]
    return Twin(tl.Sequential(layers), example=indices(5000, 1, 20), target=target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_core_is_recognised_and_runs_artefacts_without_compiler_and_torch(
    target: str, boards: Boards
) -> None:
    compiled = classifier(target).compiled
    boards[target].put(compiled)(indices(5000, 3, 10))
    told = boards[target].ask("describe")
    assert (told["machine"], told["foreign"]) == ("aarch64", [])
    # The core that stands for plain ARMv8 has CRC32 as well.
    assert told["native"] == {"armv8-a": "cortex-a72"}.get(target, target)
    assert set(targets.TARGETS[target].cpu_flags) <= set(told["flags"])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_classifiers_agree_on_every_core(batch: int, target: str, boards: Boards) -> None:
    for twin, ids in (
        (classifier(target), indices(5000, batch, 10)),
        (text(target), indices(5000, batch, 20)),
    ):
        there = boards[target].put(twin.compiled)
        for given in (ids, ids.astype(np.int32)):
            twin.compare(there(given), twin.reference(given))


@pytest.mark.parametrize(
    ("target", "dtype"), [("cortex-a72", "float32"), ("neoverse-v1", "float64")]
)
def test_every_kind_of_kernel_agrees_on_any_threads(
    dtype: str, target: str, boards: Boards
) -> None:
    twin = sample(dtype, target)
    there = boards[target].put(twin.compiled)
    for batch in (0, 1, 2, 5, 13, 64, 333):
        inputs = every_input(batch, dtype)
        there.threads = 1
        single = there(*inputs)
        twin.compare(single, twin.reference(*inputs))
        there.threads = 2
        for left, right in zip(single, there(*inputs), strict=True):
            np.testing.assert_array_equal(left, right)


def test_bad_input_is_refused_there_as_it_is_here(boards: Boards) -> None:
    there = boards["cortex-a72"].put(classifier("cortex-a72").compiled)
    ids = indices(5000, 4, 10)
    ids[2, 7] = 5000
    with pytest.raises(tl.IndexOutOfRangeError, match=r"index 5000 at position \(2, 7\)"):
        there(ids)
    with pytest.raises(tl.DTypeError, match="got float32"):
        there(np.zeros((4, 10), np.float32))
    with pytest.raises(tl.ShapeError, match="length 10, got 9"):
        there(ids[:, :9])
    with pytest.raises(tl.ConfigError, match="there is no input 'other'"):
        there(other=ids)
    assert there(indices(5000, 4, 10)).shape == (4, 10)


def test_what_a_machine_cannot_run_is_refused_before_its_code_is_loaded(
    boards: Boards, tmp_path: Path
) -> None:
    board, path = boards["cortex-a72"], tmp_path / "model.tvml"
    classifier("native").compiled.save(path)
    with pytest.raises(tl.TargetError, match="x86_64 code, and this machine is aarch64"):
        board.load(path)
    classifier("neoverse-v1").compiled.save(path)
    with pytest.raises(tl.TargetError, match=r"compiled for neoverse-v1.*lacks.* sve"):
        board.load(path)
    with pytest.raises(tl.TargetError, match="aarch64 code, and this machine is x86_64"):
        tl.load(path)
    with pytest.raises(tl.TargetError, match="save it and load it on such a machine"):
        classifier("neoverse-v1").compiled(indices(5000, 1, 10))


TRAINS = """
import json, sys
import numpy as np
import tvmlayers as tl
step = tl.load_step(sys.argv[1])
ids, labels = (np.array(each) for each in json.load(sys.stdin))
print(json.dumps([step(ids, labels) for _ in range(3)]))
"""


def test_a_step_that_was_exported_here_trains_there(machine: Machine, tmp_path: Path) -> None:
    layers = [tl.Embedding(50, 8, input_length=6, seed=1), tl.Flatten(), tl.Dense(16, "relu")]
    model = tl.Sequential([*layers, tl.Dropout(0.2, seed=2), tl.Dense(4, "softmax", seed=3)])
    made = {"optimizer": "adam", "tables": "rowwise_adagrad"}
    loss = "sparse_categorical_crossentropy"
    there = tl.compile_step(model, loss, **made, target="neoverse-n1")
    there.export(tmp_path / "step.tvml")
    ids, labels = np.arange(192).reshape(32, 6) * 7 % 50, np.arange(32) % 4
    done = subprocess.run(
        [*machine.command("neoverse-n1"), "-c", TRAINS, str(tmp_path / "step.tvml")],
        env=machine.environment(),
        cwd=REPOSITORY,
        input=json.dumps([ids.tolist(), labels.tolist()]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    here = tl.compile_step(model, loss, **made)
    # Sums are in another order, and steps divide by roots of small sums.
    np.testing.assert_allclose(
        json.loads(done.stdout), [here(ids, labels) for _ in range(3)], rtol=1e-4
    )
