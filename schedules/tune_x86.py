"""Tunes the project's public cases for an x86 CPU: `python schedules/tune_x86.py --effort quick`.

Records go to `schedules/records/<target>/`, which are shipped with the package. Run it on the
target itself with nothing else running, or give a tracker. A run that was stopped goes on where
it was.
"""

from __future__ import annotations

import sys

from common import main

from tvmlayers.targets import ROWS

TARGETS = ("native", *(row.name for row in ROWS if row.family == "x86"))

if __name__ == "__main__":
    assert __doc__ is not None
    sys.exit(main(__doc__.splitlines()[0], TARGETS))
