"""Runs the CUDA source of kernels on the CPU, under the driver that `device.cpp` is.

The source is the one that nvcc and NVRTC get. Covered: what each thread of each block computes,
reads and writes, barriers that are missing or that not all threads reach, shuffles, alignment of
vectors, launches, the host code and the runtime around them. Not covered: memory that threads of
different warps see late (a race that no order of whole threads shows), time, and the compiler.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvmlayers.codegen.cuda.compiler import compile_cuda
from tvmlayers.codegen.cuda.instructions import PLAIN
from tvmlayers.codegen.cuda.lower import DeviceKernel
from tvmlayers.codegen.cuda.toolchain import PREAMBLE, Images, with_preamble
from tvmlayers.layers import Layer, Model, as_model
from tvmlayers.runtime.cuda import CudaCompiled, Driver
from tvmlayers.schedule.cuda import CudaSelector
from tvmlayers.targets import CudaTarget, resolve

HERE = Path(__file__).parent
HEAD = "tvmlayers emulated kernels\n"
COMPILER = shutil.which("g++")
# A vector that is not aligned traps here, as it does on a GPU. No FMA: sums are rounded once more.
OPTIONS = (
    *("-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-fno-strict-aliasing"),
    *("-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"),
)
# Of threads, and whether memory ends or begins at what may not be touched: see `order`.
ORDERS = ((0, 0), (1, 1))


@functools.cache
def folder() -> Path:
    made = Path(tempfile.mkdtemp(prefix="tvmlayers-emulated-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@functools.cache
def library() -> str:
    """The path of the emulated driver, built once."""
    path = folder() / "libemulated.so"
    _run(["-std=c++17", "-O2", "-fPIC", "-shared", str(HERE / "device.cpp"), "-ldl"], path)
    ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)  # kernels find their barriers in it
    return str(path)


@functools.cache
def driver() -> Driver:
    """The emulated driver."""
    return Driver(library())


def device() -> Any:
    """The emulated device's own switches."""
    return ctypes.CDLL(library())


def be(
    major: int = 8, minor: int = 0, version: int = 13000, gpus: int = 1, memory: int = 1 << 40
) -> None:
    """Change the emulated device: capability, driver's version, number of GPUs, free memory."""
    device().emulated_be(major, minor, version, gpus, ctypes.c_uint64(memory))


def emulated_images(source: str, kernels: Sequence[DeviceKernel], target: CudaTarget) -> Images:
    """A toolchain whose images the emulated driver runs."""
    given = with_preamble(source, PREAMBLE + PLAIN).replace("#include <cstdint>", "")
    code = "\n".join(
        [
            '#include "emulation.h"',
            _DYNAMIC.sub(r"char* \1 = emulated_dynamic();", given),
            *(_wrapper(kernel) for kernel in kernels),
            _EDGES,
        ]
    )
    name = hashlib.sha256(code.encode()).hexdigest()[:24]
    made = folder() / f"{name}.so"
    if not made.exists():
        written = folder() / f"{name}.cpp"
        written.write_text(code)
        _run([*OPTIONS, f"-I{HERE}", str(written)], made)
    image = (HEAD + str(made)).encode() + b"\0"
    return Images({"cubin": image, "ptx": image}, "g++")


_DYNAMIC = re.compile(r"extern __shared__ [^;]*?(\w+)\[\];")
# The section is there only where some kernel has memory of its block.
_EDGES = """
extern "C" __attribute__((weak)) char __start_block_shared, __stop_block_shared;
extern "C" char* emulated_shared_begin() { return &__start_block_shared; }
extern "C" char* emulated_shared_end() { return &__stop_block_shared; }
"""


def _wrapper(kernel: DeviceKernel) -> str:
    given = ", ".join(
        f"Pointer{{a[{i}]}}" if kind == "void*" else f"*({kind}*)a[{i}]"
        for i, kind in enumerate(kernel.parameters)
    )
    return f'extern "C" void emulated_{kernel.name}(void** a) {{\n  {kernel.name}({given});\n}}'


def _run(options: list[str], made: Path) -> None:
    assert COMPILER is not None
    part = made.with_suffix(".part")
    done = subprocess.run([COMPILER, *options, "-o", str(part)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    part.rename(made)


def emulated(model: Model | Layer, target: str = "cuda-sm80", **fixed: Any) -> CudaCompiled:
    """A model compiled for a GPU and run on the emulated one. fixed: decisions by kind."""
    resolved = resolve(target)
    assert isinstance(resolved, CudaTarget)
    selector = CudaSelector(resolved, use_records=False, fixed=fixed)
    return compile_cuda(as_model(model), selector, emulated_images, driver())
