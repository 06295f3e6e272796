"""What the tuning scripts share: the project's public cases, the options and the run itself."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from tvmlayers.cli.tuning_display import display
from tvmlayers.dtypes import FLOAT_DTYPES
from tvmlayers.errors import ConfigError, TvmLayersError
from tvmlayers.tune import RUNNERS, TuningInterrupted, tune

HERE = Path(__file__).parent
CASES = HERE.parent / "bench" / "cases.json"
RECORDS = HERE / "records"
KINDS = ("dense", "embedding", "bag", "softmax")


def main(
    description: str,
    targets: Sequence[str],
    more: Sequence[str] = (),
    argv: Sequence[str] | None = None,
) -> int:
    """The exit status of a script that tunes the public cases, and `more`, for one of `targets`."""
    args = _parser(description, targets).parse_args(argv)
    console = Console(stderr=True)
    try:
        with display(console) as progress:
            result = tune(
                _given(args, more),
                args.target,
                trials=args.trials,
                effort=args.effort,
                threads=args.threads,
                seed=args.seed,
                records=args.records,
                work_dir=args.work_dir,
                tracker=args.tracker,
                key=args.key,
                runner=args.runner,
                progress=progress,
            )
    except TuningInterrupted as interrupted:
        print(interrupted.result)
        return 130
    except TvmLayersError as error:
        console.print(str(error), highlight=False, markup=False, soft_wrap=True)
        return 2
    print(result)
    return 0


def public_cases(
    kinds: Sequence[str], path: Path = CASES, *, on_gpu: bool = False
) -> Iterator[str]:
    """The cases of bench/cases.json as `tune` takes them: "dense 128x768x3072:gelu".

    on_gpu: with the dense ones that are there for GPUs alone. A record does not tell data apart:
    lookups are tuned on uniform indices, which find less in the caches than any others.
    """
    listed = json.loads(path.read_text())
    for case in listed["dense"] + (listed["dense on a GPU"] if on_gpu else []):
        activation = case["activation"] or "linear"
        for m in case["m"]:
            if "dense" in kinds:
                yield f"dense {m}x{case['k']}x{case['n']}:{activation}"
            if "softmax" in kinds and activation == "softmax":
                yield f"softmax {m}x{case['n']}"
    for case in listed["embedding"] if "embedding" in kinds else ():
        for indices in case["indices"]:
            yield f"embedding {case['rows']}x{case['dim']}x{indices}:uniform"
    for case in listed["bag"] if "bag" in kinds else ():
        for bags in case["bags"]:
            sizes = f"{case['rows']}x{case['dim']}x{bags}x{case['length']}"
            yield f"bag {sizes}:{case['mode']}:uniform"


def _parser(description: str, targets: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--target", default=targets[0], choices=targets)
    parser.add_argument("--kinds", type=_kinds, metavar="KIND,KIND,...")
    parser.add_argument("--dtypes", type=_dtypes, metavar="DTYPE,DTYPE,...", help="default: all")
    parser.add_argument(
        "--case",
        action="append",
        metavar="CASE",
        help='tuned instead of the public ones, as "dense 128x768x3072:gelu"; may be repeated',
    )
    parser.add_argument("--effort", default="standard", help="quick, standard or thorough")
    parser.add_argument("--trials", type=int, help="of each case, instead of an effort")
    parser.add_argument("--threads", type=int, help="default: the physical cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--records", type=Path, default=RECORDS, help=f"default: {RECORDS.name}/")
    parser.add_argument("--work-dir", type=Path, help="where all trials are kept")
    parser.add_argument(
        "--runner", choices=RUNNERS, default="measure", help="static: ARM cores by llvm-mca's model"
    )
    parser.add_argument("--tracker", metavar="HOST:PORT", help="measure on devices behind it")
    parser.add_argument("--key", metavar="NAME", help="the devices' name at the tracker")
    return parser


def _given(args: argparse.Namespace, more: Sequence[str]) -> list[str]:
    """The cases that the arguments name or choose."""
    if args.case is None:
        return _cases(args.kinds, args.dtypes, args.runner, more)
    if args.kinds or args.dtypes:
        raise ConfigError("--case names what is tuned: leave --kinds and --dtypes out")
    cases: list[str] = args.case
    return cases


def _cases(
    kinds: Sequence[str] | None, dtypes: Sequence[str] | None, runner: str, more: Sequence[str]
) -> list[str]:
    """The cases that a runner takes: the static one has a model of register tiles only."""
    kinds = kinds or (("dense",) if runner == "static" else KINDS)
    wanted = [
        case
        for case in (*public_cases(kinds), *more)
        if case.split()[0] in kinds and (dtypes is None or dtype_of(case) in dtypes)
    ]
    if runner == "static":
        wanted = [case for case in wanted if not case.partition(":")[0].endswith("x1")]
    if not wanted:
        raise ConfigError("no case is of these kinds and dtypes: leave --kinds or --dtypes out")
    return wanted


def dtype_of(case: str) -> str:
    """The dtype at the end of a case, float32 where there is none."""
    last = case.rpartition(":")[2]
    return last if last in FLOAT_DTYPES else "float32"


def _kinds(text: str) -> tuple[str, ...]:
    return _names(text, "kinds", KINDS)


def _dtypes(text: str) -> tuple[str, ...]:
    return _names(text, "dtypes", FLOAT_DTYPES)


def _names(text: str, what: str, known: Sequence[str]) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{what} are {', '.join(known)}, got {unknown[0]!r}")
    return names
