"""What is known of one kind of hardware."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tvmlayers.dtypes import wide
from tvmlayers.targets.fitted import INTEL, Fitted, KiB, MiB

__all__ = ["Hardware", "KiB", "MiB", "Target", "architecture"]


def architecture(triple: str) -> str:
    """The instruction set that a triple (or the kernel) names, in one spelling of each."""
    name = triple.partition("-")[0].lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@dataclass(frozen=True)
class Hardware:
    """What every kind of hardware has: a name, and a description."""

    name: str

    def describe(self) -> dict[str, Any]:
        """JSON-able record, the one a manifest keeps; `resolve` takes it back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if key != "fitted"  # the schedules are chosen, and each kernel says how
        }


@dataclass(frozen=True)
class Target(Hardware):
    """One kind of CPU. Sizes are bytes; caches are those that one core sees."""

    name: str
    mcpu: str  # LLVM's name of the core or psABI level
    cpu_flags: tuple[str, ...]  # as /proc/cpuinfo spells them; the code may use all of these
    vector_bytes: int
    vector_registers: int
    l1d: int
    l2: int
    l3: int
    cores: int  # physical
    vector_fmas: int = 2  # multiply-adds of whole vectors that a core starts in a cycle
    features: tuple[str, ...] = ()  # LLVM attributes on top of mcpu, such as "+avx512fp16"
    triple: str = "x86_64-unknown-linux-gnu"
    kind: str = "llvm"
    family: str = "x86"
    fitted: Fitted = field(default=INTEL, repr=False)  # numbers of the analytic choice

    @property
    def architecture(self) -> str:
        """The first word of the triple, such as "x86_64" or "aarch64"."""
        return architecture(self.triple)

    def lanes(self, dtype: str) -> int:
        """How many elements of `dtype` one vector register holds, of a half as float32."""
        return self.vector_bytes // np.dtype(wide(dtype)).itemsize
