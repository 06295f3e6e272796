"""Named hardware: what a kernel may use there and what its schedule should know.

One family of hardware a file; `table` gathers their rows, `resolution` finds the row that is meant,
`host` tells what this machine is.
"""

from tvmlayers.targets.host import (
    machine,
    missing_features,
    obstacle,
    physical_cores,
    read_caches,
    read_cpu_flags,
)
from tvmlayers.targets.resolution import native, resolve, to_dict, to_tvm
from tvmlayers.targets.table import NAMES, ROWS, TARGETS, ancestors
from tvmlayers.targets.target import KiB, MiB, Target

__all__ = [
    "NAMES",
    "ROWS",
    "TARGETS",
    "KiB",
    "MiB",
    "Target",
    "ancestors",
    "machine",
    "missing_features",
    "native",
    "obstacle",
    "physical_cores",
    "read_caches",
    "read_cpu_flags",
    "resolve",
    "to_dict",
    "to_tvm",
]
