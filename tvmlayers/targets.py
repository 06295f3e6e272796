"""Named hardware: what a kernel may use there and what its schedule should know."""

from __future__ import annotations

import functools
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tvmlayers.errors import TargetError, unknown_name

KiB, MiB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Target:
    """One kind of hardware. Sizes are bytes; caches are those that one core sees."""

    name: str
    mcpu: str  # LLVM's name of the core or psABI level
    cpu_flags: tuple[str, ...]  # as /proc/cpuinfo spells them; the code may use all of these
    vector_bytes: int
    vector_registers: int
    l1d: int
    l2: int
    l3: int
    cores: int  # physical
    features: tuple[str, ...] = ()  # LLVM attributes on top of mcpu, such as "+avx512fp16"
    triple: str = "x86_64-unknown-linux-gnu"
    kind: str = "llvm"
    family: str = "x86"

    def lanes(self, dtype: str) -> int:
        """How many elements of `dtype` one vector register holds."""
        return self.vector_bytes // np.dtype(dtype).itemsize

    def describe(self) -> dict[str, Any]:
        """JSON-able record, the one a manifest keeps; `resolve` takes it back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


# Flags that the compiler may use by itself at that level (psABI of x86-64; LLVM's core tables).
V3_FLAGS = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
V4_FLAGS = (*V3_FLAGS, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
SAPPHIRERAPIDS_FLAGS = (
    *V4_FLAGS,
    *("avx512ifma", "avx512vbmi", "avx512_vbmi2", "avx512_vnni", "avx512_bitalg"),
    *("avx512_vpopcntdq", "avx512_bf16", "avx512_fp16", "avx_vnni", "gfni", "vaes"),
    *("vpclmulqdq", "sha_ni", "adx", "amx_tile", "amx_int8", "amx_bf16"),
)

# Flags of cores that have no row here.
OTHER_FLAGS = ("avx512_vp2intersect", "avx_ifma", "avx_vnni_int8", "sse4a", "xop", "fma4", "tbm")
LLVM_NAMES = {flag: flag.replace("_", "") for flag in (*SAPPHIRERAPIDS_FLAGS, *OTHER_FLAGS)} | {
    "bmi1": "bmi",
    "abm": "lzcnt",
    "sha_ni": "sha",
    "amx_tile": "amx-tile",
    "amx_int8": "amx-int8",
    "amx_bf16": "amx-bf16",
}

# LLVM keeps to 256 bits in the loops it vectorises itself, as older cores slowed down at 512.
# Best first: `native` is the first row whose flags this CPU has.
ROWS = (
    Target(
        name="sapphirerapids",
        mcpu="sapphirerapids",
        cpu_flags=SAPPHIRERAPIDS_FLAGS,
        vector_bytes=64,
        vector_registers=32,
        l1d=48 * KiB,
        l2=2 * MiB,
        l3=60 * MiB,
        cores=16,
        features=("-prefer-256-bit",),
    ),
    Target(
        name="x86-64-v4",
        mcpu="x86-64-v4",
        cpu_flags=V4_FLAGS,
        vector_bytes=64,
        vector_registers=32,
        l1d=32 * KiB,
        l2=1 * MiB,
        l3=16 * MiB,
        cores=8,
        features=("-prefer-256-bit",),
    ),
    Target(
        name="x86-64-v3",
        mcpu="x86-64-v3",
        cpu_flags=V3_FLAGS,
        vector_bytes=32,
        vector_registers=16,
        l1d=32 * KiB,
        l2=512 * KiB,
        l3=8 * MiB,
        cores=4,
    ),
)
TARGETS = {row.name: row for row in ROWS}
NAMES = ("native", *(row.name for row in reversed(ROWS)))


def resolve(target: object = "native") -> Target:
    """The Target that `target` names or describes.

    target: a name of `NAMES`, a Target, a dict or JSON string of TVM's form (`kind`, `mcpu`,
    `mattr`, `num-cores`, ...) or of `Target.describe`, or a `tvm.target.Target`.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, str):
        return _from_json(target) if target.lstrip().startswith("{") else _from_name(target)
    if isinstance(target, Mapping):
        return _from_mapping(target)
    if hasattr(target, "export"):  # tvm.target.Target, looked at without importing tvm
        return _from_mapping(target.export())
    raise TargetError(
        f"a target is a name, a dict, a JSON string or a tvm.target.Target, got {target!r}; "
        f"names are {', '.join(NAMES)}"
    )


def native() -> Target:
    """This machine: the best row whose flags it has, with the caches and cores found here."""
    flags = read_cpu_flags()
    for row in ROWS:
        if flags.issuperset(row.cpu_flags):
            found: dict[str, Any] = {"cores": physical_cores(), **read_caches()}
            return replace(row, **found)
    raise TargetError(
        "this machine needs at least the CPU features of x86-64-v3 and lacks "
        f"{', '.join(missing_features(V3_FLAGS))}"
    )


def ancestors(target: Target) -> list[str]:
    """Names of the rows whose code runs on `target` too, the most capable first."""
    flags = set(target.cpu_flags)
    return [
        row.name
        for row in ROWS
        if row.name != target.name and row.family == target.family and flags >= set(row.cpu_flags)
    ]


def missing_features(flags: tuple[str, ...] | list[str]) -> list[str]:
    """Those of `flags` that this CPU lacks, in the order given."""
    present = read_cpu_flags()
    return [flag for flag in flags if flag not in present]


def to_tvm(target: Target) -> Any:
    """The `tvm.target.Target` that the compiler takes."""
    import tvm

    return tvm.target.Target(to_dict(target))


def to_dict(target: Target) -> dict[str, Any]:
    """TVM's description of `target`; `num-cores` is always there, tuning needs it."""
    made: dict[str, Any] = {
        "kind": target.kind,
        "mtriple": target.triple,
        "mcpu": target.mcpu,
        "num-cores": target.cores,
    }
    if target.features:
        made["mattr"] = list(target.features)
    return made


def _from_name(name: str) -> Target:
    if name == "native":
        return native()
    if name not in TARGETS:
        raise unknown_name("target", name, NAMES)
    return TARGETS[name]


def _from_json(text: str) -> Target:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise TargetError(f"the target {text!r} is not valid JSON: {error}") from error
    return _from_mapping(found)


def _from_mapping(target: Mapping[str, Any]) -> Target:
    kind = target.get("kind")
    kind = kind.get("kind") if isinstance(kind, Mapping) else kind
    if str(kind) != "llvm":
        raise TargetError(f"only targets of kind 'llvm' are supported so far, got {kind!r}")
    mcpu = str(target.get("mcpu", ""))
    if not mcpu:
        raise TargetError(
            f"the target {dict(target)!r} names no mcpu, so nothing is known of its vectors; "
            f"add one of {', '.join(TARGETS)}"
        )
    row = TARGETS.get(mcpu) or _from_llvm(mcpu)
    changes: dict[str, Any] = {
        key: int(target[key]) for key in ("l1d", "l2", "l3", "cores") if key in target
    }
    if target.get("num-cores"):
        changes["cores"] = int(target["num-cores"])
    if target.get("mtriple") or target.get("triple"):
        changes["triple"] = str(target.get("mtriple") or target["triple"])
    attributes = [str(each) for each in target.get("mattr") or target.get("features") or ()]
    added = [flag for flag, name in LLVM_NAMES.items() if f"+{name}" in attributes]
    changes["features"] = tuple(dict.fromkeys((*row.features, *attributes)))
    changes["cpu_flags"] = tuple(dict.fromkeys((*row.cpu_flags, *added)))
    return replace(row, **changes)


def _from_llvm(mcpu: str) -> Target:
    """A core that the table lacks: LLVM says what it can do, a row lends its cache sizes."""
    from tvm.target import Target as TvmTarget
    from tvm.target import codegen

    known = set(map(str, codegen.llvm_get_cpu_archlist(TvmTarget("llvm"))))
    if mcpu not in known:
        raise unknown_name("mcpu", mcpu, known)
    described = TvmTarget({"kind": "llvm", "mcpu": mcpu})
    features = set(map(str, codegen.llvm_get_cpu_features(described)))
    flags = tuple(flag for flag, name in LLVM_NAMES.items() if name in features)
    for row in ROWS:
        if set(row.cpu_flags) <= set(flags):
            return replace(row, name=mcpu, mcpu=mcpu, cpu_flags=flags)
    raise TargetError(f"{mcpu} is older than x86-64-v3, the oldest level supported")


@functools.cache
def read_cpu_flags(path: str = "/proc/cpuinfo") -> frozenset[str]:
    """What the kernel says every CPU of this machine can do (never guessed from its name)."""
    try:
        text = Path(path).read_text()
    except OSError:
        return frozenset()
    rows = (line.partition(":") for line in text.splitlines())
    found = [set(value.split()) for key, _, value in rows if key.strip() in ("flags", "Features")]
    return frozenset(set.intersection(*found)) if found else frozenset()


def machine() -> str:
    """The instruction set of this machine in a triple's words, such as "x86_64"."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@functools.cache
def physical_cores() -> int:
    """Cores this process may use: affinity and cgroup quota counted, hyper-threads not."""
    cpus = os.sched_getaffinity(0)
    cores = {_core_of(cpu) for cpu in cpus}
    quota = _cgroup_quota()
    return max(1, min(len(cores), quota) if quota else len(cores))


def _core_of(cpu: int) -> tuple[str, str]:
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        package = (topology / "physical_package_id").read_text().strip()
        return package, (topology / "core_id").read_text().strip()
    except OSError:
        return "", str(cpu)


def _cgroup_quota() -> int | None:
    """CPUs that the cgroup grants, rounded up; None without a limit."""
    for quota_path, period_path in (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            words = Path(quota_path).read_text().split()
            if period_path is not None:
                words += Path(period_path).read_text().split()
            quota, period = words
        except (OSError, ValueError):
            continue
        if quota in ("max", "-1"):
            return None
        return max(1, -(-int(quota) // int(period)))
    return None


@functools.cache
def read_caches(root: str = "/sys/devices/system/cpu/cpu0/cache") -> dict[str, int]:
    """Sizes of the data caches as {"l1d", "l2", "l3"}; a level not reported is left out."""
    found: dict[str, int] = {}
    for index in sorted(Path(root).glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        name = {"1": "l1d", "2": "l2", "3": "l3"}.get(level)
        if name and kind in ("Data", "Unified"):
            unit = {"K": KiB, "M": MiB}.get(size[-1])
            found[name] = int(size[:-1]) * unit if unit else int(size)
    return found
