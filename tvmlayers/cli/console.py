"""Where commands print to, and in which forms."""

from __future__ import annotations

import argparse
import json

from rich.console import Console

OUT = Console()
ERR = Console(stderr=True)


def print_json(value: object) -> int:
    """0, the status of a command that ends with its result as JSON."""
    print(json.dumps(value, indent=2))
    return 0


def fail(message: str, status: int = 2) -> int:
    """`status`, after one line on stderr."""
    note(message)
    return status


def note(message: str) -> None:
    """Prints one line on stderr, however many `message` has."""
    ERR.print(
        f"tvmlayers: {' '.join(message.split())}", highlight=False, markup=False, soft_wrap=True
    )


def count(text: str) -> int:
    """An argument that is a whole number from 1 on."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return number
