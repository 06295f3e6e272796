"""Tunes the project's public cases for the NVIDIA GPU that is here.

`python schedules/tune_cuda.py --effort quick` takes the row of targets that fits the GPU; with
`--target` the GPU has to be one of that row. Without a GPU it says so and ends. Records go to
`schedules/records/<target>/`, which are shipped with the package. Run it with nothing else on the
GPU. A run that was stopped goes on where it was.

After the public cases, in float32, come the dense ones in float16 and bfloat16, with 4096x4096 for
few rows and for 4096 among them; `--dtypes float32` leaves them out.
"""

from __future__ import annotations

import sys

from common import main, public_cases

from tvmlayers.dtypes import HALF_DTYPES
from tvmlayers.targets import GPU_NAMES

TARGETS = (*GPU_NAMES, "cuda-native")


def halves() -> list[str]:
    """The dense cases that are tuned in both halves."""
    cases = list(public_cases(("dense",), on_gpu=True))
    return [f"{case}:{dtype}" for dtype in HALF_DTYPES for case in cases]


if __name__ == "__main__":
    assert __doc__ is not None
    sys.exit(main(__doc__.splitlines()[0], TARGETS, halves()))
