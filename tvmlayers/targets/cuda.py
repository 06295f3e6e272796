"""NVIDIA GPUs by compute capability, with the numbers of one well-known card of each.

Limits of a multiprocessor are those of the CUDA C++ Programming Guide; the number of
multiprocessors, the second-level cache and the bandwidth are the named card's.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tvmlayers.dtypes import numpy_dtype
from tvmlayers.errors import TargetError, UnknownNameError, unknown_name
from tvmlayers.targets.target import Hardware, KiB, MiB

WARP = 32
VECTOR_BYTES = 16  # the widest load of a thread


@dataclass(frozen=True)
class CudaTarget(Hardware):
    """One kind of GPU. Sizes are bytes, registers are of 32 bits, bandwidth is bytes a second.

    float32_rate, tf32_rate: multiply-adds of a multiprocessor a clock, on CUDA cores and on tensor
    cores, by NVIDIA's papers on the architecture and the card's data sheet.
    """

    name: str
    capability: tuple[int, int]
    card: str  # whose numbers these are
    multiprocessors: int
    shared_per_block: int  # that a kernel may ask for
    shared_per_multiprocessor: int
    threads_per_multiprocessor: int
    blocks_per_multiprocessor: int
    l2: int
    bandwidth: float
    float32_rate: int
    tf32_rate: int
    registers_per_multiprocessor: int = 65536
    registers_per_thread: int = 255
    threads_per_block: int = 1024
    static_shared: int = 48 * KiB  # that a kernel has without asking
    kind: str = "cuda"
    family: str = "cuda"

    @property
    def arch(self) -> str:
        """The architecture as compilers name it, such as "sm_80"."""
        major, minor = self.capability
        return f"sm_{major}{minor}"

    def lanes(self, dtype: str) -> int:
        """How many elements of `dtype` the widest load of a thread brings."""
        return VECTOR_BYTES // numpy_dtype(dtype).itemsize


# Best first: what runs on a card is the first row whose capability it has.
ROWS = (
    CudaTarget(
        name="cuda-sm90",
        capability=(9, 0),
        card="H100 SXM",
        multiprocessors=132,
        shared_per_block=227 * KiB,
        shared_per_multiprocessor=228 * KiB,
        threads_per_multiprocessor=2048,
        blocks_per_multiprocessor=32,
        l2=50 * MiB,
        bandwidth=3.35e12,
        float32_rate=128,
        tf32_rate=1024,
    ),
    CudaTarget(
        name="cuda-sm89",
        capability=(8, 9),
        card="L40S",
        multiprocessors=142,
        shared_per_block=99 * KiB,
        shared_per_multiprocessor=100 * KiB,
        threads_per_multiprocessor=1536,
        blocks_per_multiprocessor=24,
        l2=96 * MiB,
        bandwidth=0.864e12,
        float32_rate=128,
        tf32_rate=256,
    ),
    CudaTarget(
        name="cuda-sm86",
        capability=(8, 6),
        card="A10",
        multiprocessors=72,
        shared_per_block=99 * KiB,
        shared_per_multiprocessor=100 * KiB,
        threads_per_multiprocessor=1536,
        blocks_per_multiprocessor=16,
        l2=6 * MiB,
        bandwidth=0.600e12,
        float32_rate=128,
        tf32_rate=256,
    ),
    CudaTarget(
        name="cuda-sm80",
        capability=(8, 0),
        card="A100 40 GB",
        multiprocessors=108,
        shared_per_block=163 * KiB,
        shared_per_multiprocessor=164 * KiB,
        threads_per_multiprocessor=2048,
        blocks_per_multiprocessor=32,
        l2=40 * MiB,
        bandwidth=1.555e12,
        float32_rate=64,
        tf32_rate=512,
    ),
)


def present(library: str = "libcuda.so.1", *, otherwise: str = "") -> CudaTarget:
    """The row of this machine's first GPU, by its compute capability as the driver reports it.

    TargetError where there is no driver or no GPU, or one older than every row. otherwise: what
    else can be done where there is none, for the message.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise TargetError(
            f"no GPU can be found: NVIDIA's driver does not load ({error}); install it{otherwise}"
        ) from error
    device, values = ctypes.c_int(), (ctypes.c_int(), ctypes.c_int())
    failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
    for value, attribute in zip(values, (75, 76), strict=True):  # compute capability
        failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    if failed:
        raise TargetError(
            f"NVIDIA's driver finds no GPU here (error {failed}); see what nvidia-smi says"
            f"{otherwise}"
        )
    return nearest((values[0].value, values[1].value))


def nearest(capability: tuple[int, int]) -> CudaTarget:
    """The best row that a card of this capability runs, by cubin or, a newer one, by PTX."""
    for row in ROWS:
        if row.capability <= capability:
            return row
    major, minor = capability
    raise TargetError(
        f"compute capability {major}.{minor} is older than {ROWS[-1].name}, the oldest supported"
    )


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name without a row; for a GPU's it says which row runs there, or that none.

    kind, name: as "target", "cuda-sm100", or "arch", "sm_100".
    """
    found = re.fullmatch(r"(?:cuda-sm|sm_)(\d+)(\d)[af]?", name)
    if found is None:
        return unknown_name(kind, name, known)
    try:
        row = nearest((int(found[1]), int(found[2])))
    except TargetError as error:
        return UnknownNameError(f"unknown {kind} {name!r}: {error}")
    return UnknownNameError(
        f"unknown {kind} {name!r}; the PTX of {row.name} runs there, so compile for {row.name}"
    )


def from_mapping(target: Mapping[str, Any]) -> CudaTarget:
    """The GPU that a dict of TVM's form or of `describe` means."""
    arch = str(target.get("arch", ""))
    known = {row.arch: row for row in ROWS}
    if not arch and "capability" in target:
        arch = "sm_{}{}".format(*target["capability"])
    if not arch:
        raise TargetError(
            f"the target {dict(target)!r} names no arch, and which GPU is meant is not known "
            f"without; add one of {', '.join(known)}"
        )
    if arch.rstrip("af") not in known:
        raise unknown("arch", arch, known)
    row = known[arch.rstrip("af")]
    numbers = {field.name for field in fields(row) if field.type in ("int", "float")}
    return replace(row, **{key: target[key] for key in numbers & target.keys()})
