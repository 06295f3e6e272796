"""The examples do what they say."""

from __future__ import annotations

import shutil
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
