"""`tvmlayers explain`: each layer of a model on the roofline of this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import tvmlayers as tl
from tvmlayers import plots
from tvmlayers.cli.console import ERR, OUT, count, print_json
from tvmlayers.cli.models import is_artefact, read_model
from tvmlayers.demo.snippets import SNIPPETS
from tvmlayers.errors import ConfigError
from tvmlayers.runtime.threads import count as count_threads

DESCRIPTION = """Each layer of a model on the roofline of this machine: its floating point
operations, its bytes, their ratio, and whether arithmetic or memory limits it. What this machine
can do is measured first, which takes seconds, unless --gflops and --gbytes give it."""


def add_commands(commands: Any) -> None:
    """Adds `explain` to the sub-parsers."""
    command = commands.add_parser(
        "explain", help="show what limits each layer on this machine", description=DESCRIPTION
    )
    command.add_argument(
        "model",
        metavar="MODEL",
        help=f"an artefact, a saved model, .onnx, .pt2, .keras, or {' or '.join(SNIPPETS)}: "
        "models that come with the package",
    )
    command.add_argument("--batch", type=count, default=32, help="samples in a call (default: 32)")
    command.add_argument(
        "--length", type=count, default=32, help="of axes without a fixed length (default: 32)"
    )
    command.add_argument("--threads", type=count, help="default: the physical cores")
    command.add_argument("--measure", action="store_true", help="also compile and time each layer")
    command.add_argument("--gflops", type=_rate, metavar="N", help="GFLOP/s, instead of measuring")
    command.add_argument(
        "--gbytes",
        type=_rates,
        metavar="N[,N,N]",
        help="GB/s of L2, L3 and memory, or one number for all, instead of measuring",
    )
    command.add_argument("--plot", type=Path, metavar="FILE", help="also draw it (.png, .svg)")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run_explain)


def run_explain(args: argparse.Namespace) -> int:
    """Prints the layers beneath the roofs, and draws them where that was asked for."""
    if (args.gflops is None) != (args.gbytes is None):
        raise ConfigError("--gflops and --gbytes are given together, or neither")
    if args.plot is not None:
        plots.check(args.plot)
    from tvmlayers.roofline import roofs

    known = None
    if args.gflops is not None:
        known = roofs.given(args.gflops, args.gbytes, count_threads(args.threads))
    with ERR.status(f"explaining {args.model}"):
        found = tl.explain(
            _model(args.model),
            batch=args.batch,
            length=args.length,
            threads=None if known else args.threads,
            measure=args.measure,
            roofs=known,
        )
    if args.json:
        print_json(found.to_dict())
    else:
        OUT.print(str(found), soft_wrap=True)
    if args.plot is not None:
        found.plot(args.plot)
    return 0


def _model(name: str) -> tl.Model:
    """The model in a file, or one that comes with the package."""
    path = Path(name)
    if name in SNIPPETS and not path.exists():
        return SNIPPETS[name]()
    if is_artefact(path):
        from tvmlayers.tune.workloads import read_model as read_artefact

        return read_artefact(path)
    return read_model(path)


def _rate(text: str) -> float:
    """An argument that is a number above 0."""
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return rate


def _rates(text: str) -> tuple[float, ...]:
    return tuple(map(_rate, text.split(",")))
