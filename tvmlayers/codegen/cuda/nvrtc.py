"""NVRTC, NVIDIA's compiler as a library, as the package `nvidia-cuda-nvrtc` brings it."""

import ctypes
import functools
import importlib.util
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path

from tvmlayers.errors import ConfigError, MissingDependencyError


@dataclass(frozen=True)
class Made:
    """The binaries of one program, the compiler's log and its version."""

    cubin: bytes
    ptx: bytes
    log: str
    version: str


@functools.cache
def find() -> str | None:
    """The path of libnvrtc, in a package or where the system has it; None where there is none.

    Of several the newest that the driver here, if there is one, takes the code of.
    """
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        found = sorted(Path(folder).glob("*/lib/libnvrtc.so.*"), key=_release)
        if found:
            most = _driver_release()
            taken = [path for path in found if _release(path) <= most]
            return str((taken or found)[-1])
    for name in ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return None


def _release(path: Path) -> tuple[int, ...]:
    """The number in a library's name: (12,) of libnvrtc.so.12, whatever its folder is called."""
    parts = path.name.partition(".so.")[2].split(".")
    return tuple(int(part) for part in parts if part.isdecimal())


def _driver_release() -> tuple[int, ...]:
    """The CUDA release of NVIDIA's driver, as (12, 4); beyond all where there is none."""
    found = c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(byref(found))
    except OSError:
        failed = 1
    return (1 << 30,) if failed else (found.value // 1000, found.value % 1000 // 10)


def compile(code: str, arch: str, *for_ptxas: str) -> Made:
    """cubin and PTX of CUDA source for an architecture such as "sm_80"."""
    path = find()
    if path is None:
        raise MissingDependencyError("NVRTC is not installed: pip install 'tvmlayers[cuda]'")
    for builtins in sorted(Path(path).parent.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(builtins))  # NVRTC asks for it by name, and then finds it loaded
    library = ctypes.CDLL(path)
    major, minor = c_int(), c_int()
    library.nvrtcVersion(byref(major), byref(minor))
    program = c_void_p()
    source = code.encode()
    _check(
        library,
        library.nvrtcCreateProgram(byref(program), source, b"kernels.cu", 0, None, None),
    )
    try:
        passed = [f"--ptxas-options={each}".encode() for each in ("-v", *for_ptxas)]
        options = [f"--gpu-architecture={arch}".encode(), *passed]
        status = library.nvrtcCompileProgram(
            program, len(options), (c_char_p * len(options))(*options)
        )
        log = _take(library, program, "ProgramLog").decode(errors="replace")
        if status:
            raise ConfigError(
                "NVRTC refused the CUDA source that was generated; this is an error in "
                f"tvmlayers, or NVRTC is too old for {arch}:\n{log}"
            )
        cubin, ptx = (_take(library, program, kind) for kind in ("CUBIN", "PTX"))
    finally:
        library.nvrtcDestroyProgram(byref(program))
    return Made(cubin, ptx, log, f"{major.value}.{minor.value}")


def _take(library: ctypes.CDLL, program: c_void_p, what: str) -> bytes:
    size = c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _check(library: ctypes.CDLL, status: int) -> None:
    if status:
        library.nvrtcGetErrorString.restype = c_char_p
        raise ConfigError(f"NVRTC failed: {library.nvrtcGetErrorString(status).decode()}")
