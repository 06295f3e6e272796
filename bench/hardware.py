"""The targets that a benchmark can take; TargetError says before anything is measured why not."""

from __future__ import annotations

from tvmlayers.errors import TargetError
from tvmlayers.targets import CudaTarget, Target, obstacle, resolve
from tvmlayers.targets.cuda import present


def cpu_here(name: str, kind: str) -> Target:
    """The CPU that is meant, where its code runs here. kind: of the cases, for the message."""
    found = resolve(name)
    if isinstance(found, CudaTarget):
        other = "" if kind == "model" else f"python -m bench cuda --kind {kind} --target {name}"
        hint = f"for a GPU: {other}" if other else "GPUs have dense, embedding and bag"
        raise TargetError(f"bench {kind} measures on a CPU, got {name}; {hint}")
    why = obstacle(found.triple, found.cpu_flags)
    if why:
        raise TargetError(
            f"what is compiled for {found.name} {why}; take --target native, or run this on "
            "such a machine"
        )
    return found


def gpu(name: str) -> CudaTarget:
    """The GPU that is meant, here or not."""
    found = resolve(name)
    if isinstance(found, Target):
        raise TargetError(f"this takes targets that are GPUs, got {name}; see `tvmlayers targets`")
    return found


def gpu_here(name: str) -> CudaTarget:
    """The GPU that is meant, where its code runs on the first one here."""
    wanted, found = gpu(name), present()
    if wanted.capability > found.capability:
        raise TargetError(
            f"what is compiled for {wanted.name} does not run on the GPU here, which is "
            f"{found.name}; take --target {found.name}"
        )
    return wanted
