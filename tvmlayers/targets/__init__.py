"""Named hardware: what a kernel may use there and what its schedule should know.

One family of hardware a file; `table` gathers their rows, `resolution` finds the row that is meant,
`host` tells what this machine is.
"""

from tvmlayers.targets.cuda import CudaTarget
from tvmlayers.targets.host import (
    can_make_code,
    machine,
    missing_features,
    obstacle,
    physical_cores,
    read_caches,
    read_cpu_flags,
    usable_cpus,
)
from tvmlayers.targets.resolution import (
    VARIABLE,
    native,
    resolve,
    resolve_cpu,
    to_dict,
    to_tvm,
)
from tvmlayers.targets.table import GPU_NAMES, GPUS, NAMES, ROWS, TARGETS, ancestors
from tvmlayers.targets.target import Hardware, KiB, MiB, Target

__all__ = [
    "GPUS",
    "GPU_NAMES",
    "NAMES",
    "ROWS",
    "TARGETS",
    "VARIABLE",
    "CudaTarget",
    "Hardware",
    "KiB",
    "MiB",
    "Target",
    "ancestors",
    "can_make_code",
    "machine",
    "missing_features",
    "native",
    "obstacle",
    "physical_cores",
    "read_caches",
    "read_cpu_flags",
    "resolve",
    "resolve_cpu",
    "to_dict",
    "to_tvm",
    "usable_cpus",
]
