"""The examples do what they say."""

from __future__ import annotations

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from examples import six_targets


def test_one_machine_compiles_for_six_targets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec("ziglang") is None and shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("no linker for ARM: pip install 'tvmlayers[cross]'")
    if find_spec("nvidia") is None and shutil.which("nvcc") is None:
        pytest.skip("no compiler for CUDA: pip install 'tvmlayers[cuda]'")
    assert six_targets.main([str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert len(list(tmp_path.glob("*.tvml"))) == 2 * len(six_targets.TARGETS)
    for target in six_targets.TARGETS:
        assert told.count(f"target {target}: needs") == 2
    assert told.count("aarch64 code") == 4
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


def test_digits_of_scikit_learn_get_the_same_probabilities(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    from examples import side_by_side, sklearn_digits

    monkeypatch.setattr(side_by_side, "ROUNDS", 1)
    monkeypatch.setattr(sklearn_digits, "EPOCHS", 5)
    assert sklearn_digits.main() == 0
    assert "batch 256: tvmlayers" in capsys.readouterr().out


def test_heads_give_the_logits_of_torch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    from examples import heads, side_by_side

    monkeypatch.setattr(side_by_side, "ROUNDS", 1)
    monkeypatch.setattr(heads, "EPOCHS", 1)
    assert heads.main() == 0
    assert capsys.readouterr().out.count("of 450 answers are PyTorch's") == 2


def test_static_embeddings_are_those_of_wordllama(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wordllama")
    from examples import side_by_side, static_embeddings

    monkeypatch.setattr(side_by_side, "ROUNDS", 1)
    assert static_embeddings.main() == 0
    assert "sentences" in capsys.readouterr().out
