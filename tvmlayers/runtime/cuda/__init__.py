"""Running compiled models on NVIDIA GPUs: the driver, memory, and the callable.

Loads neither the compiler nor torch nor NVIDIA's runtime library, only its driver.
"""

from tvmlayers.runtime.cuda.arrays import DeviceArray, to_device
from tvmlayers.runtime.cuda.compiled import CudaCompiled
from tvmlayers.runtime.cuda.driver import Driver

__all__ = ["CudaCompiled", "DeviceArray", "Driver", "to_device"]
