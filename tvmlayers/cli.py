"""The command line: `tvmlayers targets | compile | verify | inspect | demo`.

Exit status: 0 done, 1 a check failed, 2 a wrong call or input, told in one line on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import tvmlayers as tl
from tvmlayers import tables, targets
from tvmlayers.errors import ConfigError, MissingDependencyError, TvmLayersError

OUT = Console()
ERR = Console(stderr=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of one command; `argv` without the program's name."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except TvmLayersError as error:
        return _fail(str(error))
    except BrokenPipeError:  # `tvmlayers inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return _fail("interrupted", status=130)
    return status


def run_targets(args: argparse.Namespace) -> int:
    """Lists the named targets and whether this machine can run them."""
    rows = [_target_row(target) for target in reversed(targets.ROWS)]
    if args.json:
        return _print_json(rows)
    OUT.print(tables.targets_table(rows))
    return 0


def run_compile(args: argparse.Namespace) -> int:
    """Compiles a saved model description into an artefact."""
    if not args.output.parent.is_dir():
        raise ConfigError(f"{args.output.parent} is no folder, {args.output.name} cannot go there")
    start = time.perf_counter()
    with ERR.status(f"compiling {args.model} for {args.target}"):
        compiled = _compile(args)
        compiled.save(args.output)
    found = {
        "artefact": str(args.output),
        "target": compiled.target,
        "bytes": args.output.stat().st_size,
        "seconds": round(time.perf_counter() - start, 3),
    }
    if args.json:
        return _print_json(found)
    OUT.print(
        f"{args.output}: {tables.kib(found['bytes'])} for {found['target']}, "
        f"{found['seconds']:.1f} s",
        highlight=False,
    )
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Compares an artefact, or what a description compiles to, with PyTorch in float64."""
    with ERR.status(f"verifying {args.model}"):
        is_artefact = _is_artefact(args.model)
        compiled = tl.load(args.model, threads=args.threads) if is_artefact else _compile(args)
        verification = tl.verify(compiled)
    if args.json:
        _print_json(verification.to_dict())
    else:
        OUT.print(str(verification), highlight=False, markup=False)
    return 0 if verification.ok else 1


def run_inspect(args: argparse.Namespace) -> int:
    """Prints what an artefact says of itself; it need not be able to run here."""
    from tvmlayers import artifact

    manifest = artifact.read_manifest(args.artefact)
    if args.json:
        return _print_json(manifest)
    lacks = targets.missing_features(manifest["cpu_features"])
    OUT.print(
        f"[bold]{args.artefact}[/]: {manifest['model'].get('name', 'model')}, "
        f"{tables.kib(args.artefact.stat().st_size)}, "
        f"arena {tables.kib(manifest['arena_bytes'])}\n"
        f"made {manifest['created']} by tvmlayers {manifest['tvmlayers_version']} "
        f"with TVM {manifest['tvm_version']}\n"
        f"target {manifest['target']['name']}: needs {' '.join(manifest['cpu_features'])}",
        highlight=False,
    )
    OUT.print(
        f"[red]this machine lacks {', '.join(lacks)}[/]" if lacks else "[green]runs here[/]",
        highlight=False,
    )
    OUT.print(tables.layers_table(manifest))
    OUT.print(tables.entries_table(manifest))
    OUT.print(tables.kernels_table(manifest))
    OUT.print(tables.weights_table(manifest))
    for member, digest in manifest["hashes"].items():
        OUT.print(f"sha256 of {member}: {digest}", highlight=False)
    return 0


def run_demo(args: argparse.Namespace) -> int:
    """Runs the demonstration; 1 when any prediction differs from PyTorch's."""
    try:
        from tvmlayers.demo import report, run
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the demonstration needs {error.name}: pip install 'tvmlayers[demo]'"
        ) from error

    settings = run.QUICK if args.quick else run.FULL
    # No refreshing thread: it would wake up in the middle of what is being timed.
    progress = Progress(
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=ERR,
        auto_refresh=False,
        transient=True,
    )
    with progress:
        bar = progress.add_task("", total=settings.stages)

        def begin(stage: str) -> None:
            if not ERR.is_terminal:
                ERR.print(stage, highlight=False)
            progress.update(bar, advance=1, description=stage, refresh=True)

        found = run.run(settings, begin, args.threads)
    report.print_report(found, OUT)
    if args.json is not None:
        report.write_json(found, args.json)
    return 0 if found.succeeded else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tvmlayers", description="Embedding and dense layers compiled for one target."
    )
    parser.add_argument("--version", action="version", version=f"tvmlayers {tl.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("targets", help="list the hardware that can be compiled for")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run_targets)

    command = commands.add_parser("compile", help="compile a saved model into an artefact")
    command.add_argument("model", type=Path, help="model.save()'s file: description and weights")
    command.add_argument("-o", "--output", type=Path, required=True, help="the .tvml to write")
    _add_compile_options(command)
    command.set_defaults(run=run_compile)

    command = commands.add_parser("verify", help="compare with PyTorch in float64")
    command.add_argument("model", type=Path, metavar="FILE", help="an artefact or a saved model")
    _add_compile_options(command)
    command.set_defaults(run=run_verify)

    command = commands.add_parser("inspect", help="print what an artefact holds")
    command.add_argument("artefact", type=Path, metavar="FILE")
    command.add_argument("--json", action="store_true", help="print the manifest as JSON")
    command.set_defaults(run=run_inspect)

    command = commands.add_parser("demo", help="train, compile and compare with PyTorch")
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    command.add_argument("--threads", type=_count, help="for both sides; default: physical cores")
    command.add_argument("--quick", action="store_true", help="little data, times mean nothing")
    command.set_defaults(run=run_demo)
    return parser


def _add_compile_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", default="native", help="see `tvmlayers targets`")
    command.add_argument("--threads", type=_count, help="default: the physical cores")
    command.add_argument(
        "--input-shape",
        type=_shape,
        metavar="SIZES",
        help="one sample's shape, such as 64 or 10x64, instead of the saved one; Sequential only",
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def _compile(args: argparse.Namespace) -> tl.Compiled:
    model = tl.load_model(args.model)
    if args.input_shape is not None:
        if not isinstance(model, tl.Sequential):
            raise ConfigError(
                f"{args.model}: --input-shape is for a Sequential; a Model has its own"
            )
        model.build((None, *args.input_shape))
    return tl.compile(model, target=args.target, threads=args.threads)


def _is_artefact(path: Path) -> bool:
    """An artefact is a zip file; a saved model is a safetensors file."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _target_row(target: targets.Target) -> dict[str, Any]:
    lacks = targets.missing_features(target.cpu_flags)
    return {
        "name": target.name,
        "family": target.family,
        "vector_bits": 8 * target.vector_bytes,
        "features": list(target.cpu_flags),
        "runs_here": not lacks,
        "lacks": lacks,
        "native": target.name == _native_name(),
    }


def _native_name() -> str | None:
    try:
        return targets.native().name
    except TvmLayersError:  # this machine runs none of them
        return None


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return number


def _shape(text: str) -> tuple[int, ...]:
    return tuple(_count(size) for size in text.replace(",", "x").split("x"))


def _print_json(value: object) -> int:
    print(json.dumps(value, indent=2))
    return 0


def _fail(message: str, status: int = 2) -> int:
    ERR.print(
        f"tvmlayers: {' '.join(message.split())}", highlight=False, markup=False, soft_wrap=True
    )
    return status
