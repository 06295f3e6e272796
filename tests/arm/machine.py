"""An ARM machine without a board: QEMU, and the smallest arm64 Debian with Python and our wheels.

`python tests/arm/machine.py` sets it up in .arm/ (or TVMLAYERS_ARM): apt-get and pip download what
is needed and it is unpacked there, so neither root nor a container is wanted, and nothing of it is
installed on this machine.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("TVMLAYERS_ARM", REPOSITORY / ".arm"))
PYPROJECT = REPOSITORY / "pyproject.toml"
STAMP = "ready"
# Debian's packages; apt-get adds what they depend on.
DEBIAN = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
EMULATOR = "qemu-user-static"
# What TVM's RPC server imports on a device, beside the library's own dependencies.
SERVER = ("cloudpickle", "psutil", "tornado")
MANYLINUX = ("2_28", "2_27", "2_26", "2_24", "2_17", "2014")
EMULATED = {  # what QEMU calls a core that can do what a target needs
    "armv8-a": "cortex-a53",
    "cortex-a72": "cortex-a72",
    "neoverse-n1": "neoverse-n1",
    "neoverse-v1": "max,sve256=on,sve512=off,pauth-impdef=on",
}
SHORT_VECTORS = "max,sve128=on,sve256=off,sve512=off,pauth-impdef=on"


@dataclass(frozen=True)
class Machine:
    """What was set up: the emulator, and the root of the small Debian with its `site` packages."""

    emulator: Path
    root: Path
    site: Path

    def command(self, target: str, cpu: str | None = None) -> list[str]:
        """What starts Python on a core such as `target`; cpu: what QEMU calls it, if not that."""
        python, cpu = str(self.root / "usr/bin/python3"), cpu or EMULATED[target]
        return [str(self.emulator), "-cpu", cpu, "-L", str(self.root), python]

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """This process's environment, for Python there."""
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (self.site, REPOSITORY))),
            "PYTHONHOME": str(self.root / "usr"),
            "PYTHONPYCACHEPREFIX": str(self.site.parent / "pycache"),
            **(more or {}),
        }


def find() -> Machine | None:
    """The machine in FOLDER; None where it was not set up, or for an older list of packages."""
    try:
        emulator, told = (FOLDER / STAMP).read_text().splitlines()
    except (OSError, ValueError):
        return None
    if told != _told() or not Path(emulator).exists():
        return None
    return Machine(Path(emulator), FOLDER / "root", FOLDER / "site")


def set_up() -> Machine:
    """The machine, downloaded where it is not there yet."""
    found = find()
    if found is not None:
        return found
    if shutil.which("apt-get") is None:
        raise SystemExit("an emulated ARM machine is put together by apt-get, which is not here")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="tvmlayers-arm-") as folder:
        emulator = _debian(Path(folder))
    version = next((FOLDER / "root/usr/bin").glob("python3.*")).name.removeprefix("python")
    _wheels(version)
    (FOLDER / STAMP).write_text(f"{emulator}\n{_told()}")
    return Machine(emulator, FOLDER / "root", FOLDER / "site")


def _debian(folder: Path) -> Path:
    """Unpack Debian's packages; the emulator comes back."""
    host = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()  # nothing is installed: apt-get then brings every dependency
    options = [
        "APT::Architecture=arm64",
        "APT::Architectures::=arm64",
        f"APT::Architectures::={host}",
        "Acquire::Languages=none",
        "APT::Sandbox::User=",
        "Debug::NoLocking=1",
        f"Dir::State::Lists={folder / 'lists'}",
        f"Dir::State::status={folder / 'status'}",
        f"Dir::Cache={folder / 'cache'}",
    ]
    apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
    archives = folder / "cache/archives"
    _run([*apt, "update"])
    _run([*apt, "install", "--yes", "--download-only", "--no-install-recommends", *DEBIAN])
    for package in sorted(archives.glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(package), str(FOLDER / "root")])
    here = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if here:
        return Path(here)
    _run([*apt, "download", f"{EMULATOR}:{host}"], cwd=archives)
    (package,) = archives.glob(f"{EMULATOR}_*.deb")
    _run(["dpkg-deb", "--extract", str(package), str(folder / "qemu")])
    shutil.copy2(folder / "qemu/usr/bin/qemu-aarch64-static", FOLDER)
    return FOLDER / "qemu-aarch64-static"


def _wheels(version: str) -> None:
    platforms = [f"--platform=manylinux{'' if '_' not in m else '_'}{m}_aarch64" for m in MANYLINUX]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = [f"--python-version={version}", "--implementation=cp", "--only-binary=:all:"]
    _run([*pip, "--target", str(FOLDER / "site"), *platforms, *options, *_requirements()])


def _requirements() -> list[str]:
    # The installed package's own list would be that of the day when it was installed.
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", PYPROJECT.read_text(), re.M | re.S)
    assert listed is not None
    return [*re.findall(r'"(.*?)"', listed[1]), *SERVER]


def _told() -> str:
    """A hash of everything that the set-up depends on."""
    words = " ".join([*DEBIAN, EMULATOR, *_requirements()])
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _run(command: list[str], cwd: Path | None = None) -> None:
    subprocess.run(command, check=True, cwd=cwd)


if __name__ == "__main__":
    print(set_up().root)
