"""Tunes the project's public cases for the NVIDIA GPU that is here.

`python schedules/tune_cuda.py --effort quick` takes the row of targets that fits the GPU; with
`--target` the GPU has to be one of that row. Without a GPU it says so and ends. Records go to
`schedules/records/<target>/`, which are shipped with the package. Run it with nothing else on the
GPU. A run that was stopped goes on where it was.

After the public cases, in float32, come the dense ones in float16 and bfloat16, and 4096x4096 in
both for few rows and for 4096; `--dtypes float32` leaves them out.
"""

from __future__ import annotations

import sys

from common import main, public_cases

from tvmlayers.dtypes import HALF_DTYPES

TARGETS = ("cuda", "cuda-sm90", "cuda-sm89", "cuda-sm86", "cuda-sm80")
ROWS = (1, 2, 4, 8, 16, 32, 64, 4096)


def halves() -> list[str]:
    """The dense cases that are tuned in both halves."""
    cases = [*public_cases(("dense",)), *(f"dense {m}x4096x4096:linear" for m in ROWS)]
    return [f"{case}:{dtype}" for dtype in HALF_DTYPES for case in cases]


if __name__ == "__main__":
    assert __doc__ is not None
    sys.exit(main(__doc__.splitlines()[0], TARGETS, halves()))
