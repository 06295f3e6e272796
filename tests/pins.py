"""What LLVM makes of each kind of kernel on each CPU target, pinned: `python -m tests.pins`.

pins.txt has a line for each function: the target, the layer, the function, its instructions and a
hash of its normalised assembly. A change that should leave the code alone leaves the file alone;
another one shows there which kernels it reached. `--update` writes the file anew, `--listings DIR`
writes the assembly that is hashed, to compare two revisions of it.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import tvm
from tvm.ir import IRModule
from tvm.target.codegen import llvm_version_major

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.codegen.addresses import Exported
from tvmlayers.codegen.cpu import is_view
from tvmlayers.codegen.entries import entry_specs, uses
from tvmlayers.codegen.fuse import fused_steps
from tvmlayers.codegen.graph import Kernels
from tvmlayers.codegen.pipeline import each_function, machine_code
from tvmlayers.codegen.pool import pool_functions
from tvmlayers.schedule import Selector
from tvmlayers.targets import Target

FILE = Path(__file__).with_name("pins.txt")
VERSIONS = f"TVM {tvm.__version__}, LLVM {llvm_version_major()}"
POOL = "pool"  # in the place of a layer: what shares out parallel loops
_WITH_POOL = ("x86-64-v3", "armv8-a")

_LABEL = re.compile(r"([\w.$]+):")
_LOCAL = re.compile(r"\.L[\w.$]+")
_KERNEL = re.compile(r"\bk\d+_")  # the place of a kernel in its model
_COUNTER = re.compile(r"(__tvm_\w+?)_\d+\b")
_DATA = re.compile(r"\.(?:byte|[248]byte|short|hword|long|x?word|quad|zero|asci[iz])\b")


def model() -> tl.Model:
    """A layer of each kind that has a kernel of its own, named as the kind."""
    x, y = tl.Input((24,), name="x"), tl.Input((24,), name="y")
    steps = tl.Input((5, 8), name="steps")
    ids = tl.Input((6,), dtype="int64", name="ids")
    layers = [
        tl.Dense(64, "relu", name="dense")(x),  # whole panels
        tl.Dense(4, name="dense_int8", stored="int8")(x),  # less than one
        tl.Activation("softmax", name="softmax")(x),
        tl.Activation("gelu", name="activation")(x),
        tl.Add(name="elementwise")([x, y]),
        tl.LayerNormalization(name="normalization")(x),
        tl.GlobalAveragePooling1D(name="average")(steps),
        tl.GlobalMaxPooling1D(name="maximum")(steps),
        tl.Dot(1, name="dot")([x, y]),
        tl.DotInteraction(name="interaction")([x, y]),  # brings a Concatenate along
        tl.Embedding(50, 12, name="lookup")(ids),
        tl.EmbeddingBag(50, 12, name="bag")(ids),
    ]
    return tl.Model([x, y, steps, ids], layers)


def amx_model() -> tl.Model:
    """Dense layers for AMX: W is packed in its form, or brought into it by each call."""
    x = tl.Input((512,), name="x")
    packed, made = tl.Dense(64, name="amx_packed"), tl.Dense(1024, name="amx_made")
    return tl.Model(x, [packed(x), made(x)])


def pins() -> list[str]:
    """The lines of the file, as the code is now."""
    lines = [
        f"{target} {layer} {function} {len(listing)} {_digest(listing)}"
        for target, layer, function, listing in listings()
    ]
    return [f"# {VERSIONS}", *lines]


def listings() -> Iterator[tuple[str, str, str, list[str]]]:
    """(target, layer, function, normalised instructions and constants) of all that is pinned."""
    common, amx = model(), amx_model()
    for target in targets.TARGETS.values():
        models = [common, amx] if "amx_bf16" in target.cpu_flags else [common]
        for each in models:
            found = _functions(_assembly(each, target))
            for name in sorted(found):
                layer, _, function = name.partition("/")
                yield target.name, layer, function, found[name]


def _assembly(given: tl.Model, target: Target) -> str:
    """The kernels of a model, and the pool on some targets, as assembly."""
    graph = given.ready().graph
    kernels = Kernels(Selector(target, use_records=False))
    for use, _ in uses(fused_steps(graph), graph, entry_specs(graph)[0]):
        if not is_view(use.layer):
            kernels.of(use)
    functions = pool_functions(target) if target.name in _WITH_POOL else {}
    for made in kernels.made.values():
        kernel = made.kernel
        called = Exported(kernel.entry, kernel.functions[kernel.entry], f"entry_{kernel.name}")
        functions |= {**kernel.functions, called.name: called.external}
    code = machine_code(each_function(target)(IRModule(functions)), target)
    return str(code.mod.inspect_source("asm"))


def _functions(assembly: str) -> dict[str, list[str]]:
    """The instructions of each function by "layer/function", constants that they name behind."""
    bodies: dict[str, list[str]] = {}
    data: dict[str, list[str]] = {}
    lines: list[str] = []
    for raw in assembly.partition(".section\t.debug")[0].splitlines():
        line = re.sub(r"\s+", " ", re.sub(r"(?:#|//).*", "", raw)).strip()
        label = _LABEL.match(line)
        if label is not None and not label[1].startswith(".L"):
            lines = bodies.setdefault(label[1], [])
        elif label is not None and label[1].startswith((".Lfunc_", ".Ltmp")):
            continue
        elif label is not None and not label[1].startswith(".LBB"):
            lines = data.setdefault(label[1], [])
        elif line and (not line.startswith(".") or label is not None or _DATA.match(line)):
            lines.append(line)
    return {
        name: _normalised(body, data)
        for symbol, body in bodies.items()
        for name in [_name(symbol)]
        if name
    }


def _name(symbol: str) -> str:
    """ "layer/function" of a symbol; empty where it is none of ours."""
    if symbol.startswith("tvmlayers_"):
        return f"{POOL}/{symbol.removeprefix('tvmlayers_')}"
    kernel = re.match(r"(entry_)?k\d+_([a-z0-9_]+)", symbol)
    if kernel is None:
        return ""
    names = sorted(_LAYERS, key=len, reverse=True)
    layer = next(name for name in names if kernel[2].startswith(name))
    function = kernel[2].removeprefix(layer).removesuffix("_noinline").strip("_")
    return f"{layer}/{function or 'entry'}"


_LAYERS = {layer.name for made in (model(), amx_model()) for layer in made.layers}


def _normalised(body: list[str], data: dict[str, list[str]]) -> list[str]:
    """Lines whose labels are numbered as they come, and the constants behind these."""
    numbers: dict[str, int] = {}
    found: list[str] = []
    waiting = list(body)

    def number(label: re.Match[str]) -> str:
        return f".L{numbers.setdefault(label[0], len(numbers))}"

    while waiting:
        for line in waiting:
            line = _COUNTER.sub(r"\1", _KERNEL.sub("", line))
            found.append(_LOCAL.sub(number, line))
        known = [label for label in numbers if label in data]
        waiting = [line for label in known for line in data.pop(label)] if known else []
        data = {label: lines for label, lines in data.items() if label not in known}
    return found


def _digest(listing: list[str]) -> str:
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()[:16]


def main() -> int:
    """0; 1 where the file is not of this code and was not to be written."""
    parser = argparse.ArgumentParser(prog="python -m tests.pins", description=__doc__)
    parser.add_argument("--update", action="store_true", help=f"write {FILE.name}")
    parser.add_argument("--listings", type=Path, metavar="DIR", help="write the assembly there")
    arguments = parser.parse_args()
    if arguments.listings is not None:
        for target, layer, function, listing in listings():
            path = arguments.listings / target / f"{layer}.{function}.s"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join([*listing, ""]), encoding="utf-8")
        return 0
    if not arguments.update:
        changed = sorted(set(pins()) ^ set(FILE.read_text(encoding="utf-8").splitlines()))
        print("\n".join(changed))
        return 1 if changed else 0
    FILE.write_text("\n".join([*pins(), ""]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
