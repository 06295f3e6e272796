"""`python -m tests.fuzz`: files that a hostile hand changed, against the code that reads them.

Everything that is read must be refused with an error of tvmlayers, or work as the unchanged file
does. Exit status 1 at anything else, a crash and a hang included, each told with the change that
caused it and the command that does it again. Each case has a random generator of its own, so that
`--first I` begins at any of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.batches import KINDS, run, work


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, metavar="N", help=f"cases of changed {kind}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)  # kind and folder, of a child
    given = parser.parse_args()
    counts = {kind: getattr(given, kind) for kind in KINDS}
    if all(count is None for count in counts.values()):
        counts = dict.fromkeys(KINDS, 100)
    if given.work is not None:
        kind, folder = given.work
        return work(kind, Path(folder), given.seed, range(given.first, counts[kind]))
    failures = 0
    for kind, count in counts.items():
        if count:
            with tempfile.TemporaryDirectory(prefix="tvmlayers-fuzz-") as name:
                cases = range(given.first, given.first + count)
                failures += run(kind, Path(name), given.seed, cases)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
