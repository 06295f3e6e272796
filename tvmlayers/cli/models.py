"""`tvmlayers compile | update | verify | inspect`: saved models and artefacts."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tvmlayers as tl
from tvmlayers import tables, targets
from tvmlayers.cli.console import ERR, OUT, count, print_json
from tvmlayers.errors import ConfigError
from tvmlayers.printing import styled
from tvmlayers.runtime.call import ModelCall


def add_commands(commands: Any) -> None:
    """Adds `compile`, `update`, `verify` and `inspect` to the sub-parsers."""
    command = commands.add_parser("compile", help="compile a saved model into an artefact")
    command.add_argument("model", type=Path, help="model.save()'s file, .onnx, .pt2 or .keras")
    command.add_argument("-o", "--output", type=Path, required=True, help="the .tvml to write")
    _add_compile_options(command)
    command.set_defaults(run=run_compile)

    command = commands.add_parser("update", help="put new weights into an artefact")
    command.add_argument("artefact", type=Path, metavar="FILE")
    command.add_argument(
        "--weights", type=Path, required=True, help="safetensors, as by model.save_weights"
    )
    command.add_argument("-o", "--output", type=Path, help="the .tvml to write; default: FILE")
    command.set_defaults(run=run_update)

    command = commands.add_parser("verify", help="compare with PyTorch in float64")
    command.add_argument("model", type=Path, metavar="FILE", help="an artefact or a saved model")
    _add_compile_options(command)
    command.set_defaults(run=run_verify)

    command = commands.add_parser("inspect", help="print what an artefact holds")
    command.add_argument("artefact", type=Path, metavar="FILE")
    command.add_argument("--json", action="store_true", help="print the manifest as JSON")
    command.set_defaults(run=run_inspect)


def run_compile(args: argparse.Namespace) -> int:
    """Compiles a saved model description into an artefact."""
    if not args.output.parent.is_dir():
        raise ConfigError(f"{args.output.parent} is no folder, {args.output.name} cannot go there")
    start = time.perf_counter()
    with ERR.status(styled(f"compiling {args.model} for {args.target}")):
        compiled = _compile(args)
        compiled.save(args.output)
    found = {
        "artefact": str(args.output),
        "target": compiled.target,
        "bytes": args.output.stat().st_size,
        "seconds": round(time.perf_counter() - start, 3),
    }
    if args.json:
        return print_json(found)
    OUT.print(
        f"{args.output}: {tables.kib(found['bytes'])} for {found['target']}, "
        f"{found['seconds']:.1f} s",
    )
    return 0


def run_update(args: argparse.Namespace) -> int:
    """Writes an artefact again with new weights; it need not be able to run here."""
    from tvmlayers import safetensors_file
    from tvmlayers.artifact import file as artifact

    output = args.output or args.artefact
    weights, _ = safetensors_file.read(args.weights)
    artifact.update(args.artefact, weights, output)
    OUT.print(styled(f"{output}: {len(weights)} weights of {args.weights}"))
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Compares an artefact, or what a description compiles to, with PyTorch in float64."""
    with ERR.status(f"verifying {args.model}"):
        saved = args.model
        compiled = tl.load(saved, args.threads) if is_artefact(saved) else _compile(args)
        verification = tl.verify(compiled)
    if args.json:
        print_json(verification.to_dict())
    else:
        OUT.print(str(verification))
    return 0 if verification.ok else 1


def run_inspect(args: argparse.Namespace) -> int:
    """Prints what an artefact says of itself; it need not be able to run here."""
    from tvmlayers.artifact import file as artifact

    manifest = artifact.read_manifest(args.artefact)
    if args.json:
        return print_json(manifest)
    OUT.print(
        styled(args.artefact, "bold").append_text(
            styled(
                f": {manifest['model']['name']}, {tables.kib(args.artefact.stat().st_size)}, "
                f"arena {tables.kib(manifest['arena_bytes'])}",
                "not bold",
            )
        )
    )
    OUT.print(
        styled(
            f"made {manifest['created']} by tvmlayers {manifest['tvmlayers_version']} "
            f"with TVM {manifest['tvm_version']}"
        )
    )
    OUT.print(styled(f"target {manifest['target']['name']}: needs {_needs(manifest)}"))
    if "cuda" not in manifest:
        triple = manifest["target"].get("triple", "")
        why_not = targets.obstacle(triple, manifest["cpu_features"])
        OUT.print(styled(f"it {why_not}", "red") if why_not else styled("runs here", "green"))
    for of in ("optimizer", "tables") if "optimizer" in manifest else ():
        named = " ".join(f"{key}={value}" for key, value in manifest[of].items())
        OUT.print(styled(f"{of}: {named}"))
    OUT.print(tables.layers_table(manifest))
    OUT.print(tables.entries_table(manifest))
    for block in tables.kernel_blocks(manifest):
        OUT.print(block)
    OUT.print(tables.weights_table(manifest))
    if "cuda" in manifest:
        OUT.print(tables.resources_table(manifest))
    for member, digest in manifest["hashes"].items():
        OUT.print(f"sha256 of {member}: {digest}")
    return 0


def _needs(manifest: dict[str, Any]) -> str:
    """What an artefact needs to run, in words."""
    if "cuda" not in manifest:
        return " ".join(manifest["cpu_features"])
    arch = manifest["cuda"]["arch"]
    return f"a GPU of {arch} (cubin) or newer (PTX), by {manifest['cuda']['compiler']}"


def _add_compile_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", default="native", help="see `tvmlayers targets`")
    command.add_argument("--threads", type=count, help="default: the physical cores")
    command.add_argument(
        "--input-shape",
        type=_shape,
        metavar="SIZES",
        help="one sample's shape, such as 64 or 10x64, instead of the saved one; Sequential only",
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def _compile(args: argparse.Namespace) -> ModelCall:
    model = read_model(args.model)
    if args.input_shape is not None:
        if not isinstance(model, tl.Sequential):
            raise ConfigError(
                f"{args.model}: --input-shape is for a Sequential; a Model has its own"
            )
        model.build((None, *args.input_shape))
    return tl.compile(model, target=args.target, threads=args.threads)


FROM_FILE: dict[str, Callable[[Path], tl.Model]] = {
    ".keras": lambda path: tl.from_keras(path),
    ".onnx": lambda path: tl.from_onnx(path),
    ".pt2": lambda path: tl.from_torch(path),
}
"""How a trained file is read, by its suffix; another is `model.save`'s. Frameworks load lazily."""


def read_model(path: Path) -> tl.Model:
    """The model in a file, with its weights; MissingDependencyError and others as of its reader."""
    return FROM_FILE.get(path.suffix, tl.load_model)(path)


def is_artefact(path: Path) -> bool:
    """An artefact is a zip file, as .pt2 and .keras are; a saved model is a safetensors file."""
    if path.suffix in FROM_FILE:
        return False
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _shape(text: str) -> tuple[int, ...]:
    return tuple(count(size) for size in text.replace(",", "x").split("x"))
