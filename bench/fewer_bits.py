"""The arguments of `python -m bench dense --weights int8` and `bag --tables int4`.

What they ask for is in `fewer_bits_session`, which loads TVM: its threads are set before.
"""

from __future__ import annotations

import argparse


def add_arguments(sub: argparse.ArgumentParser, kind: str) -> None:
    """Those that choose bits; a run with one of them is `run`'s."""
    if kind == "dense":
        sub.add_argument("--weights", choices=("float16", "bfloat16", "int8", "int4"))
        sub.add_argument("--activations", choices=("int16", "int8"))
        sub.add_argument("--granularity", type=_granularity, metavar="channel|32|64|128")
    elif kind in ("bag", "embedding"):
        sub.add_argument("--tables", choices=("float16", "bfloat16", "int8", "int4"))


def is_wanted(arguments: argparse.Namespace) -> bool:
    """Whether the arguments ask for fewer bits."""
    return bool(getattr(arguments, "weights", None) or getattr(arguments, "tables", None))


def run(arguments: argparse.Namespace) -> int:
    """As `fewer_bits_session.run`."""
    from bench import fewer_bits_session

    return fewer_bits_session.run(arguments)


def _granularity(text: str) -> str | int:
    return int(text) if text.isdecimal() else text
