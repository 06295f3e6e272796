"""How many CPUs and cores there are for this process, by its affinity and its control groups."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from handmade import run_python

from tvmlayers import targets
from tvmlayers.targets import cgroups, host

V2 = "24 23 0:22 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
OTHER = "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset"
DISK = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard"


@pytest.fixture(autouse=True)
def sixteen_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def tree(folder: Path, groups: str, *mounts: str, **quotas: str) -> str:
    """A root folder with what /proc says, and files of quotas by their places in /sys/fs/cgroup."""
    proc = folder / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(groups)
    (proc / "mountinfo").write_text("".join(f"{line}\n" for line in mounts))
    for place, text in quotas.items():
        path = folder / "sys" / "fs" / "cgroup" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000\n", 16),
        ("800000 100000\n", 8),
        ("150000 100000\n", 2),
        ("1000 100000\n", 1),
        ("12800000 100000\n", 16),
        ("", 16),
        ("nonsense\n", 16),
        ("100000 0\n", 16),
    ],
)
def test_a_quota_counts_in_whole_cpus_and_never_above_the_affinity(
    quota: str, expected: int, tmp_path: Path
) -> None:
    root = tree(tmp_path, "0::/job\n", DISK, V2.format(top="/"), **{"job/cpu.max": quota})
    assert targets.usable_cpus(root) == expected


@pytest.mark.parametrize("limited", ["a", "a/b", "a/b/c"])
def test_the_least_quota_of_all_groups_above_holds(limited: str, tmp_path: Path) -> None:
    quotas = {f"{group}/cpu.max": "700000 100000\n" for group in ("a", "a/b", "a/b/c")}
    quotas[f"{limited}/cpu.max"] = "300000 100000\n"
    root = tree(tmp_path, "0::/a/b/c\n", V2.format(top="/"), **quotas)
    assert targets.usable_cpus(root) == 3


def test_a_quota_of_a_group_beside_ours_is_not_ours(tmp_path: Path) -> None:
    quotas = {"a/cpu.max": "500000 100000\n", "b/cpu.max": "100000 100000\n"}
    assert targets.usable_cpus(tree(tmp_path, "0::/a\n", V2.format(top="/"), **quotas)) == 5


@pytest.mark.parametrize(("group", "expected"), [("/pod/job", 2), ("/pod", 6), ("/", 16)])
def test_version_one_of_control_groups(group: str, expected: int, tmp_path: Path) -> None:
    said = f"9:name=systemd:/elsewhere\n3:cpuset:/other\n2:cpu,cpuacct:{group}\n0::/elsewhere\n"
    quotas = {
        "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/pod/cpu.cfs_quota_us": "600000\n",
        "cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/pod/job/cpu.cfs_quota_us": "75000\n",
        "cpu,cpuacct/pod/job/cpu.cfs_period_us": "50000\n",
    }
    root = tree(tmp_path, said, DISK, OTHER, V1.format(top="/"), **quotas)
    assert targets.usable_cpus(root) == expected


@pytest.mark.parametrize(
    ("top", "group"),
    [
        ("/docker/1a2b", "/docker/1a2b"),  # without a namespace of control groups
        ("/", "/"),  # with one
        ("/", "/../other"),  # moved out of its namespace
        ("/docker/1a2b", "/"),  # mounted before the namespace was made
        ("/docker/1a", "/docker/1a2b"),  # the beginning of a name is no group above
    ],
)
def test_a_container_sees_its_own_group_as_the_top(top: str, group: str, tmp_path: Path) -> None:
    root = tree(tmp_path, f"0::{group}\n", V2.format(top=top), **{"cpu.max": "200000 100000\n"})
    assert targets.usable_cpus(root) == 2


def test_a_group_inside_of_a_container(tmp_path: Path) -> None:
    quotas = {"cpu.max": "400000 100000\n", "job/cpu.max": "max 100000\n"}
    root = tree(tmp_path, "0::/docker/1/job\n", V2.format(top="/docker/1"), **quotas)
    assert targets.usable_cpus(root) == 4


@pytest.mark.parametrize(
    "quotas",
    [
        {"cpu.max": "200000 100000\n"},
        {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"},
    ],
)
def test_without_proc_the_usual_places_are_read(quotas: dict[str, str], tmp_path: Path) -> None:
    root = tree(tmp_path, "", **quotas)
    (tmp_path / "proc" / "self" / "cgroup").unlink()
    (tmp_path / "proc" / "self" / "mountinfo").unlink()
    assert targets.usable_cpus(root) == 2


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    assert targets.usable_cpus(str(tmp_path)) == 16
    assert targets.usable_cpus(tree(tmp_path, "garbage\n0::\n", "garbage - cgroup2")) == 16


def test_a_quota_that_changes_and_a_group_that_does_are_seen(tmp_path: Path) -> None:
    quotas = {"a/cpu.max": "200000 100000\n", "b/cpu.max": "300000 100000\n"}
    root = tree(tmp_path, "0::/a\n", V2.format(top="/"), **quotas)
    assert targets.usable_cpus(root) == 2
    (tmp_path / "sys/fs/cgroup/a/cpu.max").write_text("900000 100000\n")
    assert targets.usable_cpus(root) == 9
    (tmp_path / "proc/self/cgroup").write_text("0::/b\n")
    assert targets.usable_cpus(root) == 3


def test_an_affinity_that_is_not_told_is_all_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> set[int]:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert targets.usable_cpus(str(tmp_path)) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert targets.usable_cpus(str(tmp_path)) == 1


def test_cores_count_each_pair_of_hyper_threads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_core_of", lambda cpu: f"{cpu % 8},{cpu % 8 + 8}")
    monkeypatch.setattr(cgroups, "cpu_quota", lambda _: None)
    assert targets.physical_cores() == 8
    monkeypatch.setattr(cgroups, "cpu_quota", lambda _: 3)
    assert targets.physical_cores() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 8})
    assert targets.physical_cores() == 1  # looked at anew


NARROWED = """
import os
from tvmlayers import targets
targets.physical_cores()
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
print(targets.usable_cpus(), targets.physical_cores(), targets.native().cores)
"""


def test_an_affinity_that_is_narrowed_later_is_seen() -> None:
    assert run_python(NARROWED) == "1 1 1"
