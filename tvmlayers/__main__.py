"""Runs the command line: `python -m tvmlayers`."""

import sys

from tvmlayers.cli import main

if __name__ == "__main__":
    sys.exit(main())
