"""From a name, a dict, JSON or TVM's own description to a Target, and back to TVM's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tvmlayers.errors import TargetError, unknown_name
from tvmlayers.lean import compiler_imports
from tvmlayers.targets import arm, cuda, host, x86
from tvmlayers.targets.cuda import CudaTarget
from tvmlayers.targets.table import GPU_NAMES, GPUS, NAMES, NATIVE_GPU_NAMES, ROWS, TARGETS
from tvmlayers.targets.target import Target, architecture

VARIABLE = "TVMLAYERS_NATIVE"  # names the row that "native" is

# What LLVM calls the flags of each architecture.
LLVM_NAMES = {"x86_64": x86.LLVM_NAMES, "aarch64": arm.LLVM_NAMES}


def resolve(target: object = "native") -> Target | CudaTarget:
    """The CPU or the GPU that `target` names or describes.

    target: a name of `NAMES` or `GPU_NAMES`, a Target, a dict or JSON string of TVM's form
    (`kind`, `mcpu`, `mattr`, `num-cores`, ..., or `kind` "cuda" and `arch`) or of
    `Target.describe`, or a `tvm.target.Target`. "native" is this machine's CPU, "cuda" or
    "cuda-native" its first GPU.
    """
    if isinstance(target, (Target, CudaTarget)):
        return target
    if isinstance(target, str):
        return _from_json(target) if target.lstrip().startswith("{") else _from_name(target)
    if isinstance(target, Mapping):
        return _from_mapping(target)
    if hasattr(target, "export"):  # tvm.target.Target, looked at without importing tvm
        return _from_mapping(target.export())
    raise TargetError(
        f"a target is a name, a dict, a JSON string or a tvm.target.Target, got {target!r}; "
        f"names are {', '.join((*NAMES, *GPU_NAMES))}"
    )


def resolve_cpu(target: object = "native") -> Target:
    """As `resolve`, where only a CPU will do."""
    found = resolve(target)
    if isinstance(found, Target):
        return found
    raise TargetError(f"this works on targets that are CPUs, got {found.name}")


def native() -> Target:
    """This machine: a row with the caches and cores found here.

    The row is the best one whose flags this CPU has, or the one that TVMLAYERS_NATIVE names, for
    trying out what is shipped to older CPUs. UnknownNameError where it names none, TargetError
    where this CPU cannot run the row that it names, or has none.
    """
    asked = os.environ.get(VARIABLE)
    row = _asked_row(asked) if asked else _best_row()
    found: dict[str, Any] = {"cores": host.physical_cores(), **host.read_caches()}
    return replace(row, **found)


def to_tvm(target: Target) -> Any:
    """The `tvm.target.Target` that the compiler takes."""
    with compiler_imports():
        import tvm

    return tvm.target.Target(to_dict(target))


def to_dict(target: Target) -> dict[str, Any]:
    """TVM's description of `target`; `num-cores` is always there, tuning needs it."""
    made: dict[str, Any] = {
        "kind": target.kind,
        "mtriple": target.triple,
        "mcpu": target.mcpu,
        "num-cores": target.cores,
        # The third level takes a tenth longer and made none of these kernels faster.
        "opt-level": 2,
    }
    if target.features:
        made["mattr"] = list(target.features)
    return made


def _from_name(name: str) -> Target | CudaTarget:
    if name == "native":
        return native()
    if name in NATIVE_GPU_NAMES:
        named = ", ".join(GPUS)
        return cuda.present(otherwise=f", or compile for a GPU elsewhere by its name: {named}")
    if name in GPUS:
        return GPUS[name]
    if name not in TARGETS:
        raise cuda.unknown("target", name, (*NAMES, *GPU_NAMES, *NATIVE_GPU_NAMES[1:]))
    return TARGETS[name]


def _from_json(text: str) -> Target | CudaTarget:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise TargetError(f"the target {text!r} is not valid JSON: {error}") from error
    return _from_mapping(found)


def _from_mapping(target: Mapping[str, Any]) -> Target | CudaTarget:
    kind = target.get("kind")
    kind = kind.get("kind") if isinstance(kind, Mapping) else kind
    if str(kind) == "cuda":
        return cuda.from_mapping(target)
    if str(kind) != "llvm":
        raise TargetError(
            f"only targets of kind 'llvm' and 'cuda' are supported so far, got {kind!r}"
        )
    triple = str(target.get("mtriple") or target.get("triple") or "")
    row = _row(str(target.get("mcpu", "")), triple, target)
    changes: dict[str, Any] = {
        key: int(target[key]) for key in ("l1d", "l2", "l3", "cores") if key in target
    }
    if target.get("num-cores"):
        changes["cores"] = int(target["num-cores"])
    if triple:
        changes["triple"] = triple
    attributes = [str(each) for each in target.get("mattr") or target.get("features") or ()]
    names = LLVM_NAMES[row.architecture]
    added = [flag for flag, name in names.items() if f"+{name}" in attributes]
    changes["features"] = tuple(dict.fromkeys((*row.features, *attributes)))
    changes["cpu_flags"] = tuple(dict.fromkeys((*row.cpu_flags, *added)))
    return replace(row, **changes)


def _row(mcpu: str, triple: str, target: Mapping[str, Any]) -> Target:
    """The row of a core, or one made for it; `target` is what was asked for."""
    wanted = architecture(triple) if triple else None
    if wanted is not None and wanted not in LLVM_NAMES:
        raise TargetError(
            f"the target {dict(target)!r} is {wanted}; supported are {', '.join(LLVM_NAMES)}"
        )
    if wanted == "aarch64" and mcpu in ("", arm.GENERIC):
        return TARGETS["armv8-a"]
    if not mcpu:
        raise TargetError(
            f"the target {dict(target)!r} names no mcpu, so nothing is known of its vectors; "
            f"add one of {', '.join(TARGETS)}"
        )
    row = TARGETS.get(mcpu) or _from_llvm(mcpu, wanted)
    if wanted is not None and wanted != row.architecture:
        raise TargetError(f"{mcpu} is an {row.architecture} core, and the triple is {triple}")
    return row


def _asked_row(name: str) -> Target:
    """The row of this name where its code runs here."""
    if name not in TARGETS:
        raise unknown_name(VARIABLE, name, TARGETS)
    row = TARGETS[name]
    why = host.obstacle(row.triple, row.cpu_flags)
    if why:
        raise TargetError(
            f"{VARIABLE} is {name}, whose code does not run here: it {why}; unset it, or name "
            "a target that `tvmlayers targets` says runs here"
        )
    return row


def _best_row() -> Target:
    """The first row whose flags this CPU has."""
    flags, least = host.read_cpu_flags(), None
    for row in _rows_for(host.machine()):
        if flags.issuperset(row.cpu_flags):
            return row
        least = row
    if least is None:
        raise TargetError(
            f"this machine is {host.machine()}; supported are {', '.join(LLVM_NAMES)}"
        )
    raise TargetError(
        f"this machine needs at least the CPU features of {least.name} and lacks "
        f"{', '.join(host.missing_features(least.cpu_flags))}"
    )


def _rows_for(machine: str) -> list[Target]:
    """The rows of one architecture, the best first."""
    return [row for row in ROWS if row.architecture == machine]


def _from_llvm(mcpu: str, wanted: str | None) -> Target:
    """A core that the table lacks: LLVM says what it can do, a row lends its cache sizes.

    wanted: the architecture that the triple names; without, every one is asked for the core.
    """
    with compiler_imports():
        from tvm.target import Target as TvmTarget
        from tvm.target import codegen

    known: set[str] = set()
    for machine in LLVM_NAMES if wanted is None else [wanted]:
        rows, names = _rows_for(machine), LLVM_NAMES[machine]
        described = {"kind": "llvm", "mtriple": rows[0].triple}
        listed = codegen.llvm_get_cpu_archlist(TvmTarget({**described, "mcpu": rows[-1].mcpu}))
        known.update(map(str, listed))
        if mcpu not in map(str, listed):
            continue
        found = codegen.llvm_get_cpu_features(TvmTarget({**described, "mcpu": mcpu}))
        features = set(map(str, found))
        flags = tuple(flag for flag, name in names.items() if name in features)
        for row in rows:
            if set(row.cpu_flags) <= set(flags):
                return replace(row, name=mcpu, mcpu=mcpu, cpu_flags=flags)
        raise TargetError(f"{mcpu} is older than {rows[-1].name}, the oldest level supported")
    raise unknown_name("mcpu", mcpu, known)
