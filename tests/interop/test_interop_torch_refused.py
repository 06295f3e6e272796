"""`from_torch`: what of PyTorch is refused, and how."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_modules import Lambda, X

import tvmlayers as tl


def problems(module: Any, example: Any = None) -> str:
    with pytest.raises(tl.ModelImportError) as caught:
        tl.from_torch(module, example)
    return str(caught.value)


def test_everything_unsupported_is_named_at_once_with_its_place() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(2, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x).sin()  # the first place

    module = nn.Sequential(Block(), nn.Linear(6, 6), nn.RReLU(), nn.CELU(2.0))
    found = problems(module, X)
    assert found.startswith("4 parts of this PyTorch model cannot be imported:")
    assert "group_norm, in 0.norm (GroupNorm)" in found
    assert "`return self.norm(x).sin()  # the first place`" in found
    assert "sin, in 0 (Block) at test_interop_torch_refused.py:" in found
    assert "rrelu, in 2 (RReLU)" in found
    assert "celu, in 3 (CELU): only alpha=1 is there, not 2.0" in found


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda x: x.sum(), "only axis 1"),
        (lambda x: x.softmax(0), "only the last axis"),
        (lambda x: x.t(), "no layer here computes it"),
        (lambda x: x.view(-1, 3), "fixed axes after the batch"),
        (lambda x: torch.cat([x, x]), "axis 0"),
        (lambda x: x.double(), "casts float32 to float64"),
        (lambda x: x[:, :3], "cuts a part out"),
        (lambda x: x + x.double(), "casts"),
        (lambda x: x.unsqueeze(1) * x, "one rank and one batch"),
        (lambda x: x / x.exp(), "divides by a tensor"),
        (lambda x: F.layer_norm(x, (3, 6)), "over the batch axis|for 3 samples only"),
        (lambda x: F.batch_norm(x, None, None, training=True), "statistics of each batch"),
        (lambda x: F.prelu(x, x[0, :1]), "cuts a part out|depends on the inputs"),
        (lambda x: F.softplus(x, beta=2), "only beta=1"),
        (lambda x: x.view(-1, 2, 3).sum(1), "only rows that an embedding looked up"),
        (lambda x: torch.zeros(2), "zeros, at torch_modules.py"),
        (lambda x: x if x.sum() > 0 else -x, "torch.export cannot follow"),
        (lambda x: x.new_empty(3, 2) + 1, "does not depend|no layer here"),
    ],
)
def test_unsupported_operators_and_options_are_named(
    forward: Callable[[Tensor], Any], said: str
) -> None:
    module = Lambda(lambda _, x: forward(x))
    with pytest.raises(tl.TvmLayersError, match=said):
        tl.from_torch(module, X)


def test_a_batch_that_forward_fixes_is_refused() -> None:
    module = Lambda(lambda _, x: x.view(3, 2, 3).flatten(1))
    assert "works for 3 samples only" in problems(module, X)


def test_a_changed_buffer_is_refused() -> None:
    module = Lambda(lambda self, x: (self.count.add_(1), x.relu())[1])
    module.register_buffer("count", torch.zeros(1))
    assert "count: forward changes it" in problems(module, X)


def test_weights_without_numbers_are_refused() -> None:
    with torch.device("meta"):
        module = nn.Linear(6, 4)
    assert "meta device" in problems(module, torch.zeros(3, 6, device="meta"))


@pytest.mark.parametrize(
    ("given", "example", "said"),
    [
        (3, None, "expected a torch.nn.Module"),
        (nn.ReLU(), None, "pass example="),
        (nn.ReLU(), X[:0], "at least one sample"),
        (nn.ReLU(), "text", "got str"),
        ("model.pt", None, "is a pickle"),
    ],
)
def test_wrong_arguments_are_config_errors(given: Any, example: Any, said: str) -> None:
    with pytest.raises(tl.ConfigError, match=said):
        tl.from_torch(given, example)


class Bomb:
    """A pickle that writes a file where it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def rewritten(path: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> Path:
    """A copy of an archive whose members went through change."""
    copied = path.with_name("changed.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copied, "w") as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))
    return copied


def test_no_pickle_of_a_pt2_file_is_opened(tmp_path: Path) -> None:
    path, mark = tmp_path / "model.pt2", tmp_path / "opened"
    torch.export.save(torch.export.export(nn.Linear(6, 4), (X,)), path)
    pickled = io.BytesIO()
    torch.save(Bomb(mark), pickled)

    def in_samples(name: str, data: bytes) -> tuple[str, bytes]:
        return name, pickled.getvalue() if name.endswith(".pt") else data

    def in_weights(name: str, data: bytes) -> tuple[str, bytes]:
        if name.endswith("weight_0"):
            return name, pickled.getvalue()
        return name, data.replace(b'"use_pickle": false', b'"use_pickle": true')

    def as_object(name: str, data: bytes) -> tuple[str, bytes]:
        return name.replace("weight_0", "custom_obj_0"), data

    for change in (in_samples, in_weights, as_object):
        with pytest.raises(tl.ModelImportError):
            tl.from_torch(rewritten(path, change))
    assert not mark.exists()


def test_a_damaged_pt2_file_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(tl.ModelImportError, match="damaged"):
        tl.from_torch(path)
    with pytest.raises(FileNotFoundError):
        tl.from_torch(tmp_path / "absent.pt2")
