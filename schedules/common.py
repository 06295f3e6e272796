"""What the tuning scripts share: the project's public cases, the options and the run itself."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from tvmlayers.cli.tuning_display import display
from tvmlayers.errors import TvmLayersError
from tvmlayers.tune import RUNNERS, TuningInterrupted, tune

HERE = Path(__file__).parent
CASES = HERE.parent / "bench" / "cases.json"
RECORDS = HERE / "records"
KINDS = ("dense", "embedding", "bag", "softmax")


def main(description: str, targets: Sequence[str], argv: Sequence[str] | None = None) -> int:
    """The exit status of a script that tunes the public cases for one of `targets`."""
    args = _parser(description, targets).parse_args(argv)
    console = Console(stderr=True)
    try:
        with display(console) as progress:
            result = tune(
                list(_cases(args.kinds, args.runner)),
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


def public_cases(kinds: Sequence[str], path: Path = CASES) -> Iterator[str]:
    """The cases of bench/cases.json as `tune` takes them: "dense 128x768x3072:gelu"."""
    listed = json.loads(path.read_text())
    for case in listed["dense"]:
        activation = case["activation"] or "linear"
        for m in case["m"]:
            if "dense" in kinds:
                yield f"dense {m}x{case['k']}x{case['n']}:{activation}"
            if "softmax" in kinds and activation == "softmax":
                yield f"softmax {m}x{case['n']}"
    for case in listed["embedding"] if "embedding" in kinds else ():
        for distribution in case.get("distributions", ["uniform"]):
            for indices in case["indices"]:
                yield f"embedding {case['rows']}x{case['dim']}x{indices}:{distribution}"
    for case in listed["bag"] if "bag" in kinds else ():
        for distribution in case.get("distributions", ["uniform"]):
            for bags in case["bags"]:
                sizes = f"{case['rows']}x{case['dim']}x{bags}x{case['length']}"
                yield f"bag {sizes}:{case['mode']}:{distribution}"


def _parser(description: str, targets: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--target", default=targets[0], choices=targets)
    parser.add_argument("--kinds", type=_kinds, metavar="KIND,KIND,...")
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


def _cases(kinds: Sequence[str] | None, runner: str) -> Iterator[str]:
    """The public cases that a runner takes: the static one has a model of register tiles only."""
    if runner == "static":
        cases = public_cases(kinds or ("dense",))
        yield from (case for case in cases if not case.partition(":")[0].endswith("x1"))
    else:
        yield from public_cases(kinds or KINDS)


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise argparse.ArgumentTypeError(f"kinds are {', '.join(KINDS)}, got {unknown[0]!r}")
    return kinds
