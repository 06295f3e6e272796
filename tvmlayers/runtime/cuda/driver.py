"""NVIDIA's driver by ctypes: contexts, modules, memory, launches, and its errors in words."""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from ctypes import byref, c_char_p, c_int, c_int32, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from tvmlayers.errors import DeviceError, DeviceMemoryError, TargetError, TvmLayersError

LIBRARY = "libcuda.so.1"
_OUT_OF_MEMORY = 2
_NOT_INITIALIZED = 3
_NOT_READY = 600
# No code for this GPU, PTX that does not compile, PTX newer than the driver.
_FOREIGN_CODE = (200, 209, 218, 222)
_NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_CAPABILITY = (75, 76)  # attributes: compute capability, major and minor


class Device(ctypes.Structure):
    """What a launch needs of its device, as the C stubs of `codegen.cuda.stubs` read it.

    error: the first of the call, the driver's or -1 for a grid that is too large; kernel: the
    place of the kernel that was launched last.
    """

    _fields_ = (
        ("launch", c_void_p),
        ("stream", c_void_p),
        ("functions", c_void_p),
        ("error", c_int32),
        ("kernel", c_int32),
    )


class Context:
    """A context of the driver, current for the calling thread inside a `with`."""

    def __init__(self, driver: Driver, handle: c_void_p) -> None:
        self._driver, self._handle = driver, handle

    def __enter__(self) -> None:
        status = self._driver.library.cuCtxPushCurrent_v2(self._handle)
        if status:
            self._driver.fail(status, "cuCtxPushCurrent_v2")

    def __exit__(self, *raised: object) -> None:
        self._driver.library.cuCtxPopCurrent_v2(byref(c_void_p()))


class Driver:
    """The driver's library, its GPUs and their primary contexts, which torch uses too."""

    def __init__(self, path: str = LIBRARY) -> None:
        """DeviceError where there is no driver, or no GPU that it can use."""
        try:
            self.library = ctypes.CDLL(path)
        except OSError as error:
            raise DeviceError(
                f"running on a GPU needs NVIDIA's driver, which does not load here ({error}); "
                "install it, or compile the model for target='native'"
            ) from error
        self._contexts: dict[int, Context] = {}
        self._lock = threading.Lock()
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver; what it answers other than success raises."""
        status = getattr(self.library, name)(*arguments)
        if status:
            self.fail(status, name)

    def fail(self, status: int, doing: str) -> None:
        """Raise the error that the driver answered with."""
        text, word = c_char_p(), c_char_p()
        self.library.cuGetErrorString(status, byref(text))
        self.library.cuGetErrorName(status, byref(word))
        said = f"{doing}: {(word.value or b'?').decode()}, {(text.value or b'?').decode()}"
        if status == _OUT_OF_MEMORY:
            raise DeviceMemoryError(
                f"the GPU has too little memory left ({said}); use smaller batches, or free what "
                "else holds its memory (torch.cuda.empty_cache() gives back what torch keeps)"
            )
        if status in _FOREIGN_CODE:
            release = self.version()
            raise TargetError(
                f"NVIDIA's driver takes none of this model's code ({said}); the driver supports "
                f"CUDA {release}: install a newer one, or compile the model with a toolkit of that "
                f"release or an older one ({nvrtc_for(release)})"
            )
        if status == _NOT_INITIALIZED:
            raise DeviceError(
                f"NVIDIA's driver cannot be used in this process ({said}), which was forked from "
                "one that used the GPU; start it another way, with multiprocessing by "
                "get_context('spawn')"
            )
        if doing == "cuInit":
            raise DeviceError(f"NVIDIA's driver finds no GPU here ({said}); see nvidia-smi")
        raise TvmLayersError(f"NVIDIA's driver reports an error ({said})")

    def version(self) -> str:
        """The CUDA release that the driver supports, such as "13.0"."""
        found = c_int()
        self.library.cuDriverGetVersion(byref(found))
        return f"{found.value // 1000}.{found.value % 1000 // 10}"

    def capability(self, ordinal: int) -> tuple[int, int]:
        """The compute capability of a GPU."""
        values = []
        for attribute in _CAPABILITY:
            value = c_int()
            self.call("cuDeviceGetAttribute", byref(value), attribute, ordinal)
            values.append(value.value)
        return values[0], values[1]

    def context(self, ordinal: int) -> Context:
        """The primary context of a GPU, current for this thread inside a `with`."""
        return self._contexts.get(ordinal) or self._retain(ordinal)

    def _retain(self, ordinal: int) -> Context:
        with self._lock:
            if ordinal not in self._contexts:
                context = c_void_p()
                self.call("cuDevicePrimaryCtxRetain", byref(context), ordinal)
                self._contexts[ordinal] = Context(self, context)
            return self._contexts[ordinal]

    def allocate(self, nbytes: int) -> int:
        """The address of memory of the current context."""
        address = c_uint64()
        self.call("cuMemAlloc_v2", byref(address), c_size_t(max(nbytes, 1)))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back; waits for what runs on the device."""
        self.call("cuMemFree_v2", c_uint64(address))

    def zero(self, address: int, nbytes: int, stream: int) -> None:
        """Fill memory with zeros, in the order of the stream."""
        self.fill(address, 0, nbytes, stream)

    def fill(self, address: int, value: int, nbytes: int, stream: int) -> None:
        """Fill memory with a byte, in the order of the stream."""
        self.call("cuMemsetD8Async", c_uint64(address), value, c_size_t(nbytes), c_void_p(stream))

    def upload(self, address: int, host: int, nbytes: int, stream: int) -> None:
        """Copy from the host, in the order of the stream."""
        if nbytes:
            arguments = c_uint64(address), c_void_p(host), c_size_t(nbytes), c_void_p(stream)
            self.call("cuMemcpyHtoDAsync_v2", *arguments)

    def download(self, host: int, address: int, nbytes: int, stream: int) -> None:
        """Copy to the host, in the order of the stream; there after `synchronize`."""
        if nbytes:
            arguments = c_void_p(host), c_uint64(address), c_size_t(nbytes), c_void_p(stream)
            self.call("cuMemcpyDtoHAsync_v2", *arguments)

    def copy(self, to: int, address: int, nbytes: int, stream: int) -> None:
        """Copy within the GPU, in the order of the stream."""
        if nbytes:
            arguments = c_uint64(to), c_uint64(address), c_size_t(nbytes), c_void_p(stream)
            self.call("cuMemcpyDtoDAsync_v2", *arguments)

    def order(self, before: int, after: int) -> None:
        """Have what comes next on stream `after` wait for what is on stream `before` by now."""
        event = self.mark(before)
        try:
            self.call("cuStreamWaitEvent", c_void_p(after), event, 0)
        finally:
            self.forget(event)

    def mark(self, stream: int) -> c_void_p:
        """An event that happens once all that is on the stream by now is done; not kept."""
        event = c_void_p()
        self.call("cuEventCreate", byref(event), _NO_TIMING)
        try:
            self.call("cuEventRecord", event, c_void_p(stream))
        except TvmLayersError:
            self.forget(event)
            raise
        return event

    def is_past(self, event: c_void_p) -> bool:
        """Whether an event has happened."""
        status = self.library.cuEventQuery(event)
        if status not in (0, _NOT_READY):
            self.fail(status, "cuEventQuery")
        return bool(status == 0)

    def wait_for(self, event: c_void_p) -> None:
        """Wait until an event has happened."""
        self.call("cuEventSynchronize", event)

    def forget(self, event: c_void_p) -> None:
        """Give an event back; one that has not happened yet goes when it has."""
        self.call("cuEventDestroy_v2", event)

    def synchronize(self, stream: int) -> None:
        """Wait for all that was put on the stream."""
        self.call("cuStreamSynchronize", c_void_p(stream))

    def synchronize_all(self) -> None:
        """Wait for all streams of the current context."""
        self.call("cuCtxSynchronize")

    def load(self, image: bytes, kernels: Sequence[str]) -> Any:
        """The kernels of a cubin or of PTX in the current context, as an array of handles.

        The code is unloaded when the array goes.
        """
        module, context = c_void_p(), c_void_p()
        self.call("cuCtxGetCurrent", byref(context))
        self.call("cuModuleLoadData", byref(module), c_char_p(image))
        handles = (c_void_p * max(len(kernels), 1))()
        unloaded = weakref.finalize(handles, _unload, self.library, context, module)
        unloaded.atexit = False  # the driver is gone by then, and the code with it
        for place, name in enumerate(kernels):
            function = c_void_p()
            self.call("cuModuleGetFunction", byref(function), module, name.encode())
            handles[place] = function.value
        return handles

    def launcher(
        self, function: int, extents: Sequence[int], shared: int, addresses: Sequence[int]
    ) -> Callable[[], None]:
        """What launches a kernel on pointers alone, on the default stream.

        extents: of the grid and of the block; shared: bytes of dynamic shared memory.
        """
        values = (c_uint64 * len(addresses))(*addresses)
        pointers = (c_void_p * len(addresses))(
            *(ctypes.addressof(values) + place * 8 for place in range(len(addresses)))
        )
        given = c_void_p(function), *map(c_uint, extents), c_uint(shared), None, pointers, None

        def launch(_held: object = values) -> None:
            self.call("cuLaunchKernel", *given)

        return launch

    def device(self, handles: Any, stream: int) -> Device:
        """What the stubs need to launch kernels on a stream; the caller keeps `handles` alive."""
        launch = ctypes.cast(self.library.cuLaunchKernel, c_void_p)
        return Device(launch, stream, ctypes.addressof(handles), 0, 0)  # a cast would be a cycle


def _unload(library: ctypes.CDLL, context: c_void_p, module: c_void_p) -> None:
    """Let a module go. Nothing raises: a context that an error ended takes its code along."""
    if library.cuCtxPushCurrent_v2(context) == 0:
        library.cuCtxSynchronize()  # its kernels may still run
        library.cuModuleUnload(module)
        library.cuCtxPopCurrent_v2(byref(c_void_p()))


@functools.cache
def default_driver() -> Driver:
    """NVIDIA's driver, loaded once."""
    return Driver()


def nvrtc_for(release: str) -> str:
    """How to install the NVRTC of a CUDA release such as "12.4"."""
    package = "nvidia-cuda-nvrtc" + ("-cu12" if release.startswith("12.") else "")
    return f"pip install '{package}=={release}.*'"


def images_for(
    images: Mapping[str, bytes], arch: tuple[int, int], capability: tuple[int, int]
) -> list[bytes]:
    """The images of an artefact that a GPU may run, best first: its cubin, then the PTX.

    A newer kind of GPU runs the PTX alone; so do some boards whose number says otherwise.
    TargetError where the GPU is older than the artefact.
    """
    ptx = images["ptx"] + b"\0"
    if capability[0] == arch[0] and capability >= arch:
        return [images["cubin"], ptx]
    if capability > arch:
        return [ptx]
    raise TargetError(
        f"this model was compiled for sm_{arch[0]}{arch[1]} and this GPU is "
        f"sm_{capability[0]}{capability[1]}, which is older; compile it for "
        f"target='cuda-sm{capability[0]}{capability[1]}'"
    )
