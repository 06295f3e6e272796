"""Tunes the project's public cases for an ARM core: on devices over RPC, or by llvm-mca's model.

`python schedules/tune_arm.py --target neoverse-n1 --tracker HOST:PORT --key NAME` measures on every
device of that key; kernels are compiled and linked here. `--runner static` needs no device: it
ranks the register tiles of dense layers by a model of the core, and marks its records as modelled.
Records go to `schedules/records/<target>/`, which are shipped with the package.
"""

from __future__ import annotations

import sys

from common import main

from tvmlayers.targets import ROWS

TARGETS = ("native", *(row.name for row in ROWS if row.family == "arm"))

if __name__ == "__main__":
    assert __doc__ is not None
    sys.exit(main(__doc__.splitlines()[0], TARGETS))
