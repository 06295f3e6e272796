"""Sides in processes of their own, for measurements where thread pools must not meet by chance."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import cases, peers, specs
from bench.cases import Case, CaseError
from bench.timing import Side

# Of ours: the threads that a model is compiled for; None is as many as the peers have.
OURS = {"ours": None, "ours, 1 thread": 1}


def add_arguments(sub: argparse.ArgumentParser, wanted: Sequence[str], names: str) -> None:
    """What such measurements ask for; `wanted` and `names`: the cases and peers, if left out."""
    sub.add_argument(
        "--cases",
        nargs="+",
        metavar="CASE",
        default=list(wanted),
        help='a kind and a case, as "dense 7x333x129:tanh" or "model seed@32"',
    )
    sub.add_argument("--peers", default=names, help="%(default)s")
    sub.add_argument("--threads", type=int, help="of every side; default the physical cores")
    sub.add_argument("--json", type=Path, metavar="FILE")


def read_case(text: str) -> Case:
    kind, _, spec = text.partition(" ")
    if kind not in cases.KINDS:
        raise CaseError(f"a case begins with its kind ({', '.join(cases.KINDS)}), got {text!r}")
    return specs.parse(kind, spec)


Wanted = list[tuple[str, list[str]]]
"""Each case, with the names of the peers that compete in its kind."""


def asked(arguments: argparse.Namespace) -> tuple[Console, Wanted | None, int]:
    """(what to print on, the cases, threads); None for the cases where one or a peer is unknown,
    which is then printed."""
    from tvmlayers.targets import physical_cores

    console = Console(width=None if sys.stdout.isatty() else 160, markup=False)
    threads = arguments.threads or physical_cores()
    try:
        return console, rivals(arguments), threads
    except (CaseError, peers.PeerError) as error:
        console.print(f"bench: {error}", style="red")
        return console, None, threads


def rivals(arguments: argparse.Namespace) -> Wanted:
    """What was asked for.

    CaseError or PeerError where a case or a peer is unknown.
    """
    known = peers.load([name for name in arguments.peers.split(",") if name])
    kinds = [(text, read_case(text).kind) for text in arguments.cases]
    return [(text, [peer.NAME for peer in known if kind in peer.SIDES]) for text, kind in kinds]


def environment(threads: int) -> dict[str, str]:
    """Of a child: thread pools read these once, as their libraries load."""
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(variables, str(threads))}


def prepare(text: str, names: Sequence[str], threads: int) -> list[Side]:
    """A side of the case for each name: ours through `compiled(x)`, a peer's by its plain call.

    Unsupported where a peer does not do the case.
    """
    from bench import work
    from tvmlayers.targets import native

    case = read_case(text)
    given = work.make(case, "rotated", "float32", "int64", native().l2 * threads)
    return [_side(given, name, threads) for name in names]


def _side(given: Any, name: str, threads: int) -> Side:
    from bench import ours
    from bench.settings import Settings

    if name in OURS:
        own = Settings("native", OURS[name] or threads, "float32", "int64")
        return ours.prepare(given, own).call
    (peer,) = peers.load([name])
    peer.set_up(Settings("native", threads, "float32", "int64"))
    return peer.SIDES[given.case.kind](given)[0]
