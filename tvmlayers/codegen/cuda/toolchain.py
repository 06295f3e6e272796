"""Machine code from CUDA source: by nvcc where there is one, else by NVRTC from PyPI.

Both give the cubin of the architecture that is asked for and the PTX that newer ones compile
themselves, and a report of what each kernel takes.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvmlayers.codegen.cuda import nvrtc
from tvmlayers.codegen.cuda.instructions import INSTRUCTIONS, PLAIN
from tvmlayers.codegen.cuda.lower import DeviceKernel
from tvmlayers.codegen.cuda.rules import WMMA, copies, uses_wmma
from tvmlayers.errors import ConfigError, MissingDependencyError
from tvmlayers.targets import CudaTarget

# NVRTC has no headers of its own, and nothing here needs more of them than this.
PREAMBLE = """\
#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <cstdint>
#endif
#ifndef CUDART_INF_F
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_INF __longlong_as_double(0x7ff0000000000000ll)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
#define CUDART_NAN __longlong_as_double(0xfff8000000000000ll)
#endif
typedef unsigned int uint;
typedef unsigned char uchar;
"""

# At higher levels ptxas saves registers by spilling.
REGISTERS = "--register-usage-level=0"


@dataclass(frozen=True)
class Images:
    """What a compiler made: binaries by kind ("cubin", "ptx"), and what each kernel takes.

    resources: {kernel: {"registers", "shared", "stack", "spill_stores", "spill_loads"}}, bytes
    but for the registers of a thread.
    """

    binaries: dict[str, bytes]
    compiler: str
    resources: dict[str, dict[str, int]] = field(default_factory=dict)


Toolchain = Callable[[str, Sequence[DeviceKernel], CudaTarget], Images]


def device_images(source: str, kernels: Sequence[DeviceKernel], target: CudaTarget) -> Images:
    """cubin and PTX of CUDA source as `lower` gives it, by NVRTC where nvcc refuses it.

    MissingDependencyError where there is neither nvcc nor NVRTC.
    """
    del kernels
    found = available()
    if found is None:
        raise MissingDependencyError(
            f"compiling for {target.name} needs NVIDIA's nvcc and ptxas on the PATH, or NVRTC from "
            "PyPI: pip install 'tvmlayers[cuda]'"
        )
    head = PREAMBLE + INSTRUCTIONS + PLAIN + (WMMA if uses_wmma(source) else "")
    code = with_preamble(source, head)
    if found == "nvcc":
        try:
            return _by_nvcc(code, target)
        except ConfigError:  # older than the architecture, or than the C++ compiler beside it
            if nvrtc.find() is None:
                raise
    return _by_nvrtc(code, target)


def available() -> str | None:
    """The compiler that `device_images` would begin with: "nvcc", "nvrtc" or None."""
    if shutil.which("nvcc") and shutil.which("ptxas"):
        return "nvcc"
    return "nvrtc" if nvrtc.find() is not None else None


def with_preamble(source: str, head: str) -> str:
    """TVM's CUDA source under a head that needs no header of NVIDIA's.

    Few blocks for a multiprocessor are enough, and one of those with 256 threads or more, as the
    largest tiles have: asked for no number, ptxas spills a few words to fit one more.
    """

    def bounded(found: re.Match[str]) -> str:
        return f"__launch_bounds__({found[1]}, {1 if int(found[1]) >= 256 else 2})"

    kernels = source[source.index('extern "C" __global__') :]
    return head + copies(kernels) + re.sub(r"__launch_bounds__\((\d+)\)", bounded, kernels)


def threads_of(source: str) -> dict[str, int]:
    """The threads of a block of each kernel, as its bounds in the source say."""
    found = re.findall(r"__launch_bounds__\((\d+)[^)]*\) (\w+)\(", source)
    return {name: int(threads) for threads, name in found}


def _by_nvcc(code: str, target: CudaTarget) -> Images:
    virtual = target.arch.replace("sm_", "compute_")
    with tempfile.TemporaryDirectory() as folder:
        source, ptx, cubin = (Path(folder) / f"kernels.{end}" for end in ("cu", "ptx", "cubin"))
        source.write_text(code, encoding="utf-8")
        options = ["--ptx", f"-arch={virtual}", "-O3", "-diag-suppress", "177,1046"]
        _run(["nvcc", *options, "-o", str(ptx), str(source)])
        arch = f"-arch={target.arch}"
        log = _run(["ptxas", "-v", "-O3", REGISTERS, arch, "-o", str(cubin), str(ptx)])
        binaries = {"cubin": cubin.read_bytes(), "ptx": ptx.read_bytes()}
    version = re.search(r"release [\d.]+, V([\d.]+)", _run(["nvcc", "--version"]))
    return Images(binaries, f"nvcc {version[1] if version else '?'}", read_report(log))


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise ConfigError(
            f"{command[0]} refused the CUDA source that was generated; it is too old for the "
            "architecture or for the C++ compiler beside it, or this is an error in tvmlayers. "
            f"NVRTC needs neither: pip install 'tvmlayers[cuda]'\n{done.stdout}{done.stderr}"
        )
    return done.stdout + done.stderr


def _by_nvrtc(code: str, target: CudaTarget) -> Images:
    made = nvrtc.compile(code, target.arch, REGISTERS)
    return Images(
        {"cubin": made.cubin, "ptx": made.ptx}, f"nvrtc {made.version}", read_report(made.log)
    )


_FUNCTION = re.compile(r"Function properties for (\w+)")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def read_report(log: str) -> dict[str, dict[str, int]]:
    """What `ptxas -v` says of each kernel."""
    found: dict[str, dict[str, Any]] = {}
    name = ""
    for line in log.splitlines():
        if match := _FUNCTION.search(line):
            name = match[1]
            found[name] = {"registers": 0, "shared": 0}
        elif (match := _STACK.search(line)) and name:
            stack, stores, loads = map(int, match.groups())
            found[name].update(stack=stack, spill_stores=stores, spill_loads=loads)
        elif (match := _USED.search(line)) and name:
            shared = _SHARED.search(line)
            found[name].update(registers=int(match[1]), shared=int(shared[1]) if shared else 0)
    return found
