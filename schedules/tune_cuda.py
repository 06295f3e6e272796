"""Tunes the project's public cases for the NVIDIA GPU that is here.

`python schedules/tune_cuda.py --effort quick` takes the row of targets that fits the GPU; with
`--target` the GPU has to be one of that row. Without a GPU it says so and ends. Records go to
`schedules/records/<target>/`, which are shipped with the package. Run it with nothing else on the
GPU. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import sys

from common import main

TARGETS = ("cuda", "cuda-sm90", "cuda-sm89", "cuda-sm86", "cuda-sm80")

if __name__ == "__main__":
    assert __doc__ is not None
    sys.exit(main(__doc__.splitlines()[0], TARGETS))
