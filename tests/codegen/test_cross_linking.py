"""Libraries for another architecture: which linker is taken, and what comes out."""

from __future__ import annotations

import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.artifact import file as artifact
from tvmlayers.codegen import link

ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
OTHER = "x86_64" if targets.machine() == "aarch64" else "aarch64"
TARGET = {"x86_64": "x86-64-v3", "aarch64": "armv8-a"}[OTHER]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that these programs, and perhaps the package ziglang, are all that is here."""

    def pretend(*programs: str, ziglang: bool = False) -> None:
        monkeypatch.delenv(link.VARIABLE, raising=False)
        there = {name: f"/somewhere/{name}" for name in programs}
        monkeypatch.setattr(link.shutil, "which", there.get)
        monkeypatch.setattr(link.importlib.util, "find_spec", lambda _: ziglang or None)

    return pretend


def test_a_cross_linker_is_found_by_name(installed: Callable[..., None]) -> None:
    installed("aarch64-linux-gnu-gcc", "clang", "ld.lld", ziglang=True)
    assert link.cross_linker("aarch64") == ["aarch64-linux-gnu-gcc"]
    installed("clang", "ld.lld", ziglang=True)
    assert link.cross_linker("aarch64")[:2] == ["clang", "--target=aarch64-linux-gnu"]
    installed("clang", ziglang=True)
    assert link.cross_linker("aarch64")[:4] == [sys.executable, "-m", "ziglang", "cc"]


def test_without_a_cross_linker_the_error_says_what_to_install(
    installed: Callable[..., None],
) -> None:
    installed("gcc", "clang")
    with pytest.raises(tl.MissingDependencyError) as caught:
        link.cross_linker("aarch64")
    assert "pip install 'tvmlayers[cross]'" in str(caught.value)
    assert "apt-get install gcc-aarch64-linux-gnu" in str(caught.value)


def test_a_linker_that_the_user_names_goes_first(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("aarch64-linux-gnu-gcc", "mycc")
    monkeypatch.setenv(link.VARIABLE, "mycc --target=arm64")
    assert link.cross_linker("aarch64") == ["mycc", "--target=arm64"]
    monkeypatch.setenv(link.VARIABLE, "absent")
    with pytest.raises(tl.MissingDependencyError, match="names absent"):
        link.cross_linker("aarch64")


def test_a_linker_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(link.VARIABLE, "false")
    compiled = tl.compile(tl.Dense(3, input_dim=2), TARGET)
    with pytest.raises(tl.MissingDependencyError, match=f"linking for {OTHER} with false failed"):
        compiled.save(tmp_path / "model.tvml")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("linker", [None, f"{sys.executable} -m ziglang cc -target {OTHER}-linux"])
def test_a_library_for_another_architecture_names_no_library_of_that_machine(
    linker: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if linker is not None:
        pytest.importorskip("ziglang", reason="pip install 'tvmlayers[cross]' brings it")
        monkeypatch.setenv(link.VARIABLE, linker)
    try:
        link.cross_linker(OTHER)
    except tl.MissingDependencyError as error:
        pytest.skip(str(error))
    path = tmp_path / "model.tvml"
    tl.compile(tl.Dense(3, "softmax", input_dim=2), TARGET).save(path)
    with zipfile.ZipFile(path) as archive:
        library = archive.read(artifact.LIBRARY)
    (machine,) = struct.unpack_from("<H", library, 18)
    assert machine == ELF_MACHINES[OTHER]
    assert b"GLIBC_" not in library
    assert b"libc.so" not in library
    assert artifact.read_manifest(path)["target"]["name"] == TARGET
