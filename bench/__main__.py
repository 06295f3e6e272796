"""`python -m bench dense|embedding|bag|model`: our kernels against their peers, on this machine.

`python -m bench train` does so for training steps.

`python -m bench cuda`, or `--target` and a GPU's name without a kind, does so on the GPU here.
`python -m bench plot RESULT.json...` draws what earlier runs measured. `arm-static` and
`cuda-static` need no such machine: they put the inner loops for each core beside what its ports
allow, and read what the kernels for GPUs take from the compiler's report.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import cases, contention, cuda_peers, cuda_static, fewer_bits, specs, train, turns
from bench.cases import Case, CaseError
from tvmlayers.dtypes import HALF_DTYPES


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    kinds = top.add_subparsers(dest="kind", required=True)
    for kind in cases.KINDS:
        sub = kinds.add_parser(kind)
        if kind == "model":
            sub.add_argument("--name", action="append", help="a model's name; all, if left out")
            sub.add_argument("--batches", type=_numbers, help="as 1,32,256")
        sub.add_argument(
            "--shapes",
            "--cases",
            dest="cases",
            nargs="+",
            action="extend",
            metavar="CASE",
            help=f"{specs.form(kind)}; the public cases, if left out",
        )
        if kind != "model":
            sub.add_argument(
                "--data",
                choices=("repeated", "rotated", "both"),
                default="repeated" if kind == "dense" else "both",
                help="one index set (or kernel) repeated, or many in turn; %(default)s",
            )
        _common(sub, kind)
        fewer_bits.add_arguments(sub, kind)
        if kind == "dense":
            sub.add_argument("--roofline", type=Path, metavar="FILE", help="a roofline plot")
    cuda_static.add_arguments(
        kinds.add_parser("cuda-static", help="registers, spills and occupancy of kernels for GPUs")
    )
    cuda_peers.add_arguments(
        kinds.add_parser("cuda", help="against PyTorch and FBGEMM on the GPU here")
    )
    contention.add_arguments(
        kinds.add_parser("contention", help="beside busy processes, and from several threads")
    )
    turns.add_arguments(
        kinds.add_parser("turns", help="in one process, in turns with a peer's own calls")
    )
    train.add_arguments(kinds.add_parser("train", help="training steps"))
    drawn = kinds.add_parser("plot", help="draw the results of earlier runs")
    drawn.add_argument("results", nargs="+", type=Path, metavar="RESULT.json")
    drawn.add_argument("--ratios", type=Path, metavar="FILE", help="the ratios, of every kind")
    drawn.add_argument("--roofline", type=Path, metavar="FILE", help="of the dense layers")
    static = kinds.add_parser("arm-static", help="inner loops on ARM cores, by llvm-mca's model")
    static.add_argument(
        "--target", action="append", dest="targets", help="a core; all that are modelled"
    )
    static.add_argument("--json", type=Path, metavar="FILE")
    return top


def _common(sub: argparse.ArgumentParser, kind: str) -> None:
    sub.add_argument(
        "--peers",
        type=_words,
        default=["torch"],
        help="torch (the default), torch.compile, onnxruntime, openvino, fbgemm, litert, zentorch, "
        "jax, or all: those of these that are installed; untuned: ourselves without records, a "
        "peer like any other where it is named",
    )
    sub.add_argument("--untuned", action="store_true", help="ignore the records of tuned schedules")
    sub.add_argument("--threads", type=_positive, help="of every side; default the physical cores")
    sub.add_argument("--target", default="native")
    halves = HALF_DTYPES if kind == "dense" else ()
    dtypes = ("float32", "float64", *halves)
    sub.add_argument("--dtype", choices=dtypes, default="float32")
    sub.add_argument("--index-dtype", choices=("int32", "int64"), default="int64")
    sub.add_argument("--seconds", type=float, default=1.5, help="of timing a case; %(default)s")
    sub.add_argument("--rounds", type=_positive, help="of timing, instead of --seconds")
    sub.add_argument("--quick", action="store_true", help="a quarter of the time, less certain")
    sub.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="MINUTES",
        help="for a shared machine: how long to wait until others are quiet, and to time again "
        "what they disturbed; %(default)s",
    )
    sub.add_argument(
        "--no-limits",
        action="store_true",
        help="do not measure the machine's limits, which none are known of for halves",
    )
    sub.add_argument("--json", type=Path, metavar="FILE")
    sub.add_argument("--plot", type=Path, metavar="FILE", help="the ratios; PNG, SVG, PDF")


def chosen(arguments: argparse.Namespace) -> list[Case]:
    """The cases that the arguments ask for; CaseError where one cannot be read."""
    kind = arguments.kind
    if arguments.cases:
        return [specs.parse(kind, spec) for word in arguments.cases for spec in _words(word)]
    if kind == "model" and (arguments.name or arguments.batches):
        names = arguments.name or sorted({case.name for case in cases.public("model")})
        return [case for name in names for case in cases.models(name, arguments.batches)]
    return cases.public(kind)


def main(argv: Sequence[str] | None = None) -> int:
    """0 where every case was timed; 1 where one gave a wrong result; 2 for bad arguments."""
    arguments = parser().parse_args(_with_kind(sys.argv[1:] if argv is None else argv))
    if arguments.kind == "plot":
        return _plot(arguments)
    if arguments.kind == "cuda-static":
        return cuda_static.run(arguments)
    if arguments.kind == "cuda":
        return cuda_peers.run(arguments)
    if arguments.kind == "contention":
        return contention.run(arguments)
    if arguments.kind == "turns":
        return turns.run(arguments)
    if arguments.kind == "train":
        return train.run(arguments)
    if arguments.kind == "arm-static":
        from bench import arm_static

        return arm_static.run(arguments.targets, arguments.json)
    try:
        wanted = chosen(arguments)
    except CaseError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    from tvmlayers.targets import physical_cores

    arguments.threads = arguments.threads or physical_cores()
    # Thread pools read these once, as their libraries load: so before anything else is imported.
    for variable in ("TVM_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)
    if fewer_bits.is_wanted(arguments):
        return fewer_bits.run(arguments)
    from bench import hardware
    from tvmlayers.errors import TvmLayersError

    try:
        hardware.cpu_here(arguments.target, arguments.kind)
    except TvmLayersError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    from bench.session import Session

    return Session(arguments).run(wanted)


def _with_kind(argv: Sequence[str]) -> list[str]:
    """The arguments; with `cuda` before them where there is only a GPU's name to tell the kind."""
    if not argv or not argv[0].startswith("-") or argv[0] in ("-h", "--help"):
        return list(argv)
    only = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    only.add_argument("--target", default="")
    if only.parse_known_args(argv)[0].target.startswith("cuda"):
        return ["cuda", *argv]
    parser().error(
        f"expected a kind first ({', '.join(cases.KINDS)}), got {argv[0]}; without one only the "
        "target of a GPU will do, as --target cuda"
    )


def _plot(arguments: argparse.Namespace) -> int:
    """0 where the files are drawn, 2 where one cannot be read or has nothing to draw."""
    from bench import plot
    from tvmlayers.errors import TvmLayersError

    try:
        if arguments.ratios is None and arguments.roofline is None:
            raise plot.NoPlotError("nothing to draw; pass --ratios FILE, --roofline FILE or both")
        runs = [plot.Run.read(path) for path in arguments.results]
        plot.draw(runs, arguments.ratios, arguments.roofline)
    except (TvmLayersError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _numbers(text: str) -> list[int]:
    return [_positive(word) for word in _words(text)]


if __name__ == "__main__":
    sys.exit(main())
