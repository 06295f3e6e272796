"""C functions that launch kernels, one for each: typed arguments in, the driver's way out."""

from collections.abc import Sequence

from tvmlayers.codegen.cuda.lower import DeviceKernel

# The structure is `tvmlayers.runtime.cuda.driver.Device`.
_HEAD = """\
#include <stdint.h>

#ifdef __cplusplus
#define STUB extern "C" int32_t
#else
#define STUB int32_t
#endif

typedef struct {
  int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                void*, void**, void**);
  void* stream;
  void** functions;
  int32_t error;
  int32_t kernel;
} tvmlayers_device;

static int32_t tvmlayers_launch(int64_t address, int32_t kernel, void** arguments,
                                const int64_t* grid, const int64_t* block) {
  tvmlayers_device* device = (tvmlayers_device*)address;
  if (device->error) return device->error;
  for (int i = 0; i < 3; ++i) {
    if (grid[i] <= 0) return 0;
  }
  device->kernel = kernel;
  if (grid[0] > 2147483647 || grid[1] > 65535 || grid[2] > 65535) {
    device->error = -1;
    return device->error;
  }
  device->error = device->launch(
      device->functions[kernel], (unsigned)grid[0], (unsigned)grid[1], (unsigned)grid[2],
      (unsigned)block[0], (unsigned)block[1], (unsigned)block[2], 0, device->stream, arguments, 0);
  return device->error;
}
"""
_AXES = ("x", "y", "z")


def stubs(kernels: Sequence[DeviceKernel]) -> str:
    """The C source of the stubs of all kernels."""
    return "\n".join([_HEAD, *(_stub(place, kernel) for place, kernel in enumerate(kernels))])


def _stub(place: int, kernel: DeviceKernel) -> str:
    names = [f"a{i}" for i in range(len(kernel.parameters))]
    given = [f"{kind} {name}" for kind, name in zip(kernel.parameters, names, strict=True)]
    extents = {axis: f"e{i}" for i, axis in enumerate(kernel.axes)}
    grid, block = (
        ", ".join(extents.get(f"{unit}.{axis}", "1") for axis in _AXES)
        for unit in ("blockIdx", "threadIdx")
    )
    parameters = ["int64_t device", *given, *(f"int64_t {name}" for name in extents.values())]
    return f"""
STUB {kernel.stub}({", ".join(parameters)}) {{
  void* arguments[] = {{{", ".join(f"&{name}" for name in names)}}};
  const int64_t grid[] = {{{grid}}}, block[] = {{{block}}};
  return tvmlayers_launch(device, {place}, arguments, grid, block);
}}"""
