"""How much of the machine Linux grants to this process: the CPU quotas of its control groups."""

from __future__ import annotations

import functools
import re
from pathlib import Path, PurePosixPath

GROUPS, MOUNTS = "proc/self/cgroup", "proc/self/mountinfo"
# Their files of a quota, which is so many microseconds of CPU time in each period: of version 2 of
# the interface, and of version 1.
_FILES = {"cgroup2": ("cpu.max",), "cgroup": ("cpu.cfs_quota_us", "cpu.cfs_period_us")}
_GROUP = re.compile(r"^\d+:([^:\n]*):(/.*)$", re.MULTILINE)
_MOUNT = re.compile(r"^\S+ \S+ \S+ (\S+) (\S+) .* - (cgroup2?) \S+ (\S+)$", re.MULTILINE)
_USUAL_MOUNTS = (("/", "/sys/fs/cgroup", "cgroup2"), ("/", "/sys/fs/cgroup/cpu", "cgroup"))


def cpu_quota(root: str = "/") -> int | None:
    """CPUs that the quotas of this process's cgroup and of all above it grant; None without any.

    A fraction of a CPU counts as one. root: the folder that holds /proc and /sys.
    """
    places = _quota_files(root, read(f"{root}/{GROUPS}"))
    return min(filter(None, map(_cpus, places)), default=None)


def read(path: str) -> str:
    """The text of a small file; empty where there is none that can be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _cpus(files: tuple[str, ...]) -> int | None:
    """CPUs that a quota and its period in `files` make, rounded up; None without a limit."""
    words = " ".join(map(read, files)).split()
    if len(words) != 2 or not all(word.isdecimal() for word in words):  # "max", or -1
        return None
    quota, period = map(int, words)
    return -(-quota // period) if period else None


@functools.lru_cache(maxsize=8)
def _quota_files(root: str, groups: str) -> tuple[tuple[str, ...], ...]:
    """The files of a quota for each cgroup in `groups`, the text of GROUPS, and all above them."""
    own = {
        "cgroup" if controllers else "cgroup2": path
        for controllers, path in _GROUP.findall(groups)
        if not controllers or "cpu" in controllers.split(",")
    }
    mounts = [
        (top, folder, kind)
        for top, folder, kind, options in _MOUNT.findall(read(f"{root}/{MOUNTS}"))
        if kind == "cgroup2" or "cpu" in options.split(",")
    ]
    found = []
    for top, folder, kind in mounts or _USUAL_MOUNTS:
        group = Path(f"{root}/{folder}")
        groups_here = [group, *(group := group / part for part in _below(top, own.get(kind, top)))]
        found += [tuple(str(each / name) for name in _FILES[kind]) for each in groups_here]
    return tuple(found)


def _below(top: str, path: str) -> tuple[str, ...]:
    """The parts of `path` below `top`; none where it is not there, as a container may see it."""
    try:
        parts = PurePosixPath(path).relative_to(top).parts
    except ValueError:
        return ()
    return () if ".." in parts else parts
