"""`tvmlayers tune`: measures candidates on this machine or on others, and writes records."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tvmlayers import plots
from tvmlayers.cli.console import ERR, OUT, count, note, print_json
from tvmlayers.errors import ConfigError

KINDS = ("dense", "embedding", "bag", "softmax")
_RPC = (
    "TVM's RPC trusts its network: anyone who reaches a tracker or a server runs code there. Keep "
    "both on 127.0.0.1 or on a network of your own."
)


def add_commands(commands: Any) -> None:
    """Adds `tune` to the sub-parsers."""
    command = commands.add_parser(
        "tune",
        help="measure schedules, and keep the best for `compile`",
        description="Measures schedules for the kernels of a model, or for kernels given by hand, "
        "and writes the best as records that `compile` then uses. A run that was stopped goes on "
        "where it was.",
        epilog=_RPC,
    )
    command.add_argument(
        "model", nargs="?", type=Path, metavar="MODEL", help="a saved model or an artefact"
    )
    _add_cases(command)
    command.add_argument("--target", default="native", help="see `tvmlayers targets`")
    command.add_argument("--trials", type=int, metavar="N", help="for each kernel and batch size")
    command.add_argument(
        "--effort",
        default="standard",
        metavar="NAME",
        help="quick, standard or thorough: 16, 64 or 512 trials (default: standard)",
    )
    command.add_argument(
        "--batches",
        type=_batches,
        default=(1, 32, 256),
        metavar="N,N,...",
        help="batch sizes to tune a model for (default: 1,32,256)",
    )
    command.add_argument("--threads", type=count, help="default: the physical cores")
    command.add_argument("--seed", type=int, default=0, help="of the search and the inputs")
    command.add_argument("--zipf", action="store_true", help="indices by Zipf's law, not uniform")
    command.add_argument("--cold", action="store_true", help="data in memory, not in the caches")
    command.add_argument(
        "--length", default="32", metavar="N", help="indices in a bag: 32, or 0..60 (default: 32)"
    )
    command.add_argument(
        "--space",
        default="tvmlayers",
        metavar="NAME",
        help="tvmlayers, or stock: MetaSchedule's own rules, only measured for comparison",
    )
    command.add_argument("--records", type=Path, metavar="DIR", help="default: the user's records")
    command.add_argument("--work-dir", type=Path, metavar="DIR", help="where all trials are kept")
    command.add_argument(
        "--tracker", metavar="HOST:PORT", help="measure on devices behind a TVM RPC tracker"
    )
    command.add_argument("--key", metavar="NAME", help="the devices' name at the tracker")
    command.add_argument(
        "--runner",
        default="measure",
        metavar="NAME",
        help="measure, or static: dense layers on an ARM core by llvm-mca's model, without one",
    )
    command.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves (.png, .svg)")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run_tune)


def run_tune(args: argparse.Namespace) -> int:
    """Tunes what the arguments name; 130 when it was interrupted."""
    from tvmlayers.cli.tuning_display import display
    from tvmlayers.tune import Data, TuningInterrupted, plot, tune

    if args.plot is not None:
        plots.check(args.plot)
    data = Data.of(
        {
            "distribution": "zipf" if args.zipf else "uniform",
            "length": args.length,
            "cold": args.cold,
        }
    )
    given = _given(args)
    status = 0
    with display(ERR) as progress:
        try:
            result = tune(
                given,
                args.target,
                trials=args.trials,
                effort=args.effort,
                batches=args.batches,
                threads=args.threads,
                seed=args.seed,
                data=data,
                space=args.space,
                records=args.records,
                work_dir=args.work_dir,
                tracker=args.tracker,
                key=args.key,
                runner=args.runner,
                progress=progress,
            )
        except TuningInterrupted as interrupted:
            result, status = interrupted.result, 130
    if status:
        note("interrupted; what was measured is kept, the same command goes on from there")
    if args.json:
        print_json(result.to_dict())
    else:
        OUT.print(str(result), soft_wrap=True)
    if args.plot is not None:
        plot.draw(result, args.plot)
    return status


def _add_cases(command: argparse.ArgumentParser) -> None:
    # The forms are those of tune.cases, which is not imported for `tvmlayers --help`.
    for kind, form in (
        ("dense", "MxKxN:activation, as 128x768x3072:gelu"),
        ("embedding", "ROWSxWIDTHxINDICES:distribution, as 1000000x64x4096:zipf"),
        ("bag", "ROWSxWIDTHxBAGSxLENGTH:mode:distribution, as 1000000x64x2048x100:sum"),
        ("softmax", "MxN, as 256x1000"),
    ):
        command.add_argument(
            f"--{kind}", action="append", default=[], metavar="CASE", help=f"{form}[:dtype]"
        )


def _given(args: argparse.Namespace) -> list[Any]:
    """What is tuned: the model, then the cases by hand."""
    cases = [f"{kind} {text}" for kind in KINDS for text in getattr(args, kind)]
    given = [*([] if args.model is None else [args.model]), *cases]
    if not given:
        raise ConfigError("nothing to tune: name a saved model, or cases with --dense and the like")
    return given


def _batches(text: str) -> tuple[int, ...]:
    return tuple(count(size) for size in text.split(","))
