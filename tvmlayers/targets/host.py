"""What this machine is: CPU flags, caches and cores, as Linux reports them."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import platform
from collections.abc import Collection, Sequence
from pathlib import Path

from tvmlayers.targets import arm, cgroups
from tvmlayers.targets.target import KiB, MiB, architecture

CPUINFO = "/proc/cpuinfo"
AT_HWCAP, AT_HWCAP2 = 16, 26


def obstacle(triple: str, flags: Sequence[str]) -> str:
    """Why code for `triple` that uses `flags` does not run here; empty where it does."""
    needed = architecture(triple)
    if triple and needed != machine():
        return f"is {needed} code, and this machine is {machine()}"
    missing = missing_features(flags)
    return f"needs CPU features that this machine lacks: {', '.join(missing)}" if missing else ""


def missing_features(flags: Sequence[str]) -> list[str]:
    """Those of `flags` that this CPU lacks, in the order given."""
    present = read_cpu_flags()
    return [flag for flag in flags if flag not in present]


@functools.cache
def read_cpu_flags(path: str = CPUINFO) -> frozenset[str]:
    """What the kernel says every CPU of this machine can do (never guessed from its name)."""
    # The file can be another machine's, as under an emulator; the words are always the CPU's.
    if path == CPUINFO and machine() == "aarch64":
        return _read_hwcap()
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    rows = (line.partition(":") for line in text.splitlines())
    found = [set(value.split()) for key, _, value in rows if key.strip() in ("flags", "Features")]
    return frozenset(set.intersection(*found)) if found else frozenset()


def _read_hwcap() -> frozenset[str]:
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    words = (AT_HWCAP, arm.HWCAP), (AT_HWCAP2, arm.HWCAP2)
    return frozenset(
        name
        for kind, names in words
        for word in [getauxval(kind)]
        for bit, name in names.items()
        if word >> bit & 1
    )


def machine() -> str:
    """The instruction set of this machine in a triple's words, such as "x86_64"."""
    return architecture(platform.machine())


def physical_cores() -> int:
    """Cores this process may use now: hyper-threads are not counted, `usable_cpus` at most."""
    return min(usable_cpus(), len({_core_of(cpu) for cpu in _allowed_cpus()}))


def usable_cpus(root: str = "/") -> int:
    """CPUs this process may use now, 1 at least: those in the affinity of this thread, and no more
    than the quotas of its cgroup and of all above it, a fraction counted as one.

    root: the folder that holds /proc and /sys.
    """
    quota = cgroups.cpu_quota(root)
    allowed = len(_allowed_cpus())
    return max(1, allowed if quota is None else min(allowed, quota))


def _allowed_cpus() -> Collection[int]:
    try:
        return os.sched_getaffinity(0)
    except OSError:  # a sandbox refuses it
        return range(os.cpu_count() or 1)


@functools.cache
def _core_of(cpu: int) -> str:
    """What hyper-threads of one core share: the list of them. Many chips number no cores."""
    folder = f"/sys/devices/system/cpu/cpu{cpu}/topology"
    return cgroups.read(f"{folder}/thread_siblings_list").strip() or str(cpu)


@functools.cache
def read_caches(root: str = "/sys/devices/system/cpu/cpu0/cache") -> dict[str, int]:
    """Sizes of the data caches as {"l1d", "l2", "l3"}; a level not reported is left out."""
    found: dict[str, int] = {}
    for index in sorted(Path(root).glob("index*")):
        level, kind, size = (
            cgroups.read(f"{index}/{name}").strip() for name in ("level", "type", "size")
        )
        name = {"1": "l1d", "2": "l2", "3": "l3"}.get(level)
        number = size.rstrip("KM")
        if name and kind in ("Data", "Unified") and number.isdecimal():
            found[name] = int(number) * {"K": KiB, "M": MiB}.get(size[-1], 1)
    return found


@functools.cache
def can_make_code() -> bool:
    """Whether memory that was written may be executed, as code made in this process has to be.

    SELinux, systemd's MemoryDenyWriteExecute and other sandboxes refuse it.
    """
    with mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        start = ctypes.byref(ctypes.c_char.from_buffer(page))
        executable = mmap.PROT_READ | mmap.PROT_EXEC
        allowed = bool(ctypes.CDLL(None).mprotect(start, mmap.PAGESIZE, executable) == 0)
        del start  # a page that is pointed to cannot be closed
    return allowed
