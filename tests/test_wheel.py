"""A wheel, installed into an empty folder, is whole: what users get runs without the repository."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from test_readme import BLOCK, README

ROOT = README.parent
pytestmark = pytest.mark.wheel

# Python without environment variables, working folder and site: the last reads the .pth file by
# which an editable install brings the repository in. Dependencies are those of this environment.
ISOLATED = (sys.executable, "-I", "-S", "-c")
BEGIN = """
import sys
installed, dependencies = sys.argv[1:]
sys.path[:0], sys.path[len(sys.path):] = [installed], [dependencies]
import tvmlayers as tl
assert tl.__file__.startswith(installed), tl.__file__
"""
RECORD = """
from tvmlayers import records, targets
record = min(
    records.load(targets.native().name, "dense"),
    key=lambda each: each.workload["k"] * each.workload["n"],
)
named = record.workload.to_dict()
layer = tl.Dense(named["n"], named["activation"], input_dim=named["k"], dtype=named["dtype"])
(row,) = tl.compile(layer).report()
assert ("record", record.decisions) in [
    (regime["source"], regime["decisions"]) for regime in row["regimes"]
]
"""
BACKEND = """
import torch
assert "tvmlayers" in torch._dynamo.list_backends()
linear, x = torch.nn.Linear(6, 4), torch.ones(3, 6)
with torch.no_grad():
    got = torch.compile(linear, backend="tvmlayers")(x)
    torch.testing.assert_close(got, linear(x))
from tvmlayers.torch import part
assert len(part._codes) == 1
"""
COMMAND = """
from tvmlayers import cli
sys.exit(cli.main(["records", "list", "--json"]))
"""


def pip(*arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by what the development extra brings: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, ROOT)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", folder, wheel)
    return folder


def run(program: str, installed: Path) -> str:
    """What the program prints, with the installed package and without the repository."""
    done = subprocess.run(
        [*ISOLATED, BEGIN + program, str(installed), sysconfig.get_path("platlib")],
        capture_output=True,
        text=True,
        cwd=installed,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_holds_the_package_with_its_records_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    package = {name for name in names if name.startswith("tvmlayers/")}
    assert all(name in package or ".dist-info/" in name for name in names)
    sources = {path.relative_to(ROOT) for path in (ROOT / "tvmlayers").rglob("*.py")}
    shipped = ROOT / "schedules" / "records"
    records = {path.relative_to(shipped) for path in shipped.rglob("*.json")}
    assert package >= {str(path) for path in sources} | {"tvmlayers/py.typed"}
    assert records
    assert package >= {f"tvmlayers/records/data/{path}" for path in records}


def test_the_first_snippets_of_the_readme_run_from_an_installed_wheel(installed: Path) -> None:
    embedding, dense, *_ = (block[1] for block in BLOCK.finditer(README.read_text()))
    assert "tl.Embedding(" in embedding
    assert "tl.Dense(" in dense
    run(embedding + dense, installed)


def test_torch_compile_finds_the_backend_of_an_installed_wheel(installed: Path) -> None:
    run(BACKEND, installed)


def test_an_installed_wheel_finds_its_records(installed: Path) -> None:
    run(RECORD, installed)
    assert "dense 128x768x3072" in run(COMMAND, installed)
