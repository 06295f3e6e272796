"""The conditions that a number comes with: the machine, the versions, the threads, the date."""

from __future__ import annotations

import os
import platform
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tvmlayers.targets import MiB, Target, native, read_cpu_flags

# Flags that decide which kernels a machine can run, as /proc/cpuinfo spells them.
TELLING_FLAGS = (
    *("avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8", "asimd", "sve"),
)
PACKAGES = ("tvmlayers", "apache-tvm", "apache-tvm-ffi", "numpy")


def read(threads: int, target: str, peers: dict[str, str]) -> dict[str, Any]:
    """A JSON-able record of the conditions; `peers` is name to version."""
    machine: Target = native()
    flags = read_cpu_flags()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "flags": [flag for flag in TELLING_FLAGS if flag in flags],
        "cores": machine.cores,
        "caches_mib": {
            level: round(getattr(machine, level) / MiB, 3) for level in ("l1d", "l2", "l3")
        },
        "huge_pages": _huge_pages(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "peers": peers,
        "threads": threads,
        "target": target,
        "native": machine.name,
    }


class Busyness:
    """How much of the machine others used since this was made: processes, hypervisor."""

    def __init__(self) -> None:
        self._begin = self._read()

    def others(self) -> float | None:
        """0..1 of all the CPUs' time; None where the system does not tell."""
        begin, now = self._begin, self._read()
        if begin is None or now is None or now[0] <= begin[0]:
            return None
        total, busy, own = (b - a for a, b in zip(begin, now, strict=True))
        return min(max((busy - own) / total, 0.0), 1.0)

    def _read(self) -> tuple[float, float, float] | None:
        """Seconds of all the CPUs: altogether, busy, and busy with this process."""
        try:
            line = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0]
        except OSError:
            return None
        # user nice system idle iowait irq softirq steal; the rest is counted in user already
        ticks = [int(word) for word in line.split()[1:9]]
        total = sum(ticks) / os.sysconf("SC_CLK_TCK")
        idle = sum(ticks[3:5]) / os.sysconf("SC_CLK_TCK")
        return total, total - idle, time.process_time()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _huge_pages() -> str:
    """ "always", "madvise" or "never": the one of the kernel's settings that is chosen."""
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    return text.partition("[")[2].partition("]")[0]
