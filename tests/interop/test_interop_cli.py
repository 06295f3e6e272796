"""`tvmlayers compile` on the files of other frameworks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import tvmlayers as tl
from tvmlayers.cli import main


def test_a_pt2_file_is_compiled(tmp_path: Path) -> None:
    network, x = nn.Sequential(nn.Linear(6, 4), nn.Tanh()), torch.randn(3, 6)
    source, artefact = tmp_path / "net.pt2", tmp_path / "net.tvml"
    torch.export.save(torch.export.export(network, (x,)), source)
    assert main(["compile", str(source), "-o", str(artefact)]) == 0
    assert tl.verify(tl.load(artefact), against=network).ok


@pytest.mark.parametrize("suffix", [".pt2", ".onnx", ".keras"])
def test_a_damaged_file_is_one_line_and_writes_nothing(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    {".onnx": "onnx", ".keras": "h5py"}.get(suffix) and pytest.importorskip(
        {".onnx": "onnx", ".keras": "h5py"}[suffix]
    )
    source, artefact = tmp_path / f"net{suffix}", tmp_path / "net.tvml"
    source.write_bytes(b"PK\x03\x04 nothing")
    assert main(["compile", str(source), "-o", str(artefact)]) == 2
    assert "damaged" in capsys.readouterr().err
    assert not artefact.exists()
