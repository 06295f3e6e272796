"""Weights in fewer bits: ours, and those of the peers.

Ours in float32, ours in fewer bits, and what the peers that are installed offer in as many bits,
each in every mode that it has. All take turns in one process. Beside the times is how far results
are from the float model's, in all (the Euclidean norm): modes that round inputs too are faster and
less exact.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

import numpy as np
from rich.console import Console
from rich.table import Table

import tvmlayers as tl
from bench import ours, peers, specs, stats, work
from bench.cases import Case, CaseError
from bench.peers import PeerError, Unsupported
from bench.settings import Settings
from bench.timing import Plan, Side, fastest, measure
from bench.work import BagWork, DenseWork, EmbeddingWork, Work
from tvmlayers.targets import native

PEERS = ("onnxruntime", "openvino", "torch", "fbgemm")
OF_DENSE = ("1x4096x11008", "1x3072x768", "1x1024x1024", "8x3072x768", "64x3072x768", "512x768x768")
OF_BAGS = ("1000000x64x2048x100:sum",)
OF_LOOKUPS = ("1000000x64x65536",)
USUAL = {"dense": OF_DENSE, "bag": OF_BAGS, "embedding": OF_LOOKUPS}


def run(arguments: argparse.Namespace) -> int:
    """0; 2 where a case cannot be read. The threads' variables are set."""
    words = arguments.cases or USUAL[arguments.kind]
    try:
        wanted = [specs.parse(arguments.kind, each) for word in words for each in word.split(",")]
    except CaseError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    settings = Settings(arguments.target, arguments.threads, "float32", arguments.index_dtype)
    found = [each for each in map(_peer, _names(arguments.peers)) if each is not None]
    for peer in found:
        peer.set_up(settings)
    table = Table(title=_title(arguments))
    for column in ("case", "side", "µs", "float32 / it", "error"):
        table.add_column(column, justify="left" if column in ("case", "side") else "right")
    for case in wanted:
        _time(case, arguments, settings, found, table)
    Console().print(table)
    return 0


def _title(arguments: argparse.Namespace) -> str:
    what = getattr(arguments, "tables", None) or arguments.weights
    more = getattr(arguments, "activations", None)
    inputs = f", inputs as {more}" if more else ""
    return f"{arguments.kind} in {what}{inputs}, {arguments.threads} threads"


def _names(given: Sequence[str]) -> Sequence[str]:
    return PEERS if list(given) == ["all"] else [name for name in given if name in PEERS]


def _peer(name: str) -> peers.Peer | None:
    try:
        return peers.load([name])[0]
    except PeerError as error:
        print(f"bench: {error}", file=sys.stderr)
        return None


def _time(
    case: Case,
    arguments: argparse.Namespace,
    settings: Settings,
    found: Sequence[peers.Peer],
    table: Table,
) -> None:
    layout = "rotated" if arguments.data == "rotated" else "repeated"
    made = work.make(case, layout, "float32", settings.index_dtype, 4 * native().l2)
    sides = [ours.prepare(made, settings).bound, _ours(made, arguments, settings)]
    for peer in found:
        sides += _fastest_of(peer.NAME, made, arguments)
    reference = _result(sides[0])
    times = measure(sides, Plan(arguments.seconds, arguments.rounds))
    for place, (side, taken) in enumerate(zip(sides, times, strict=True)):
        ratios = [a / b for a, b in zip(times[0].rounds, taken.rounds, strict=True)]
        off = np.linalg.norm(_result(side) - reference) / np.linalg.norm(reference)
        table.add_row(
            case.spec if place == 0 else "",
            f"{side.name} {side.variant}".strip(),
            f"{1e6 * taken.median:.1f}",
            f"{stats.median(ratios):.2f}",
            f"{off:.1e}" if place else "",
        )
    table.add_section()
    work.release()


def _result(side: Side) -> np.ndarray:
    with side.context():
        result = side.calls[0]()
    array = result.float().numpy() if hasattr(result, "detach") else result
    return np.array(array[0] if isinstance(array, list) else array, dtype=np.float64)


def _ours(made: Work, arguments: argparse.Namespace, settings: Settings) -> Side:
    if isinstance(made, DenseWork):
        layer = ours.dense_layer(made, settings)
        given = {
            "weights": arguments.weights,
            "activations": arguments.activations,
            "granularity": arguments.granularity,
        }
    else:
        assert isinstance(made, (EmbeddingWork, BagWork))
        layer, given = ours.table_layer(made, settings), {"tables": arguments.tables}
    prepared = ours.of_layer(tl.quantize(layer, **given), made, settings)
    return Side("tvmlayers", prepared.bound.calls, variant="in fewer bits")


def _fastest_of(name: str, made: Work, arguments: argparse.Namespace) -> list[Side]:
    """The peer's fastest way that leaves inputs as they are, and its fastest of all, once each."""
    module = import_module(f"bench.peers.{_MODULES[name]}")
    kinds: dict[str, Callable[..., dict[str, list[Side]]]] = module.SIDES
    kind = getattr(arguments, "tables", None) or arguments.weights
    try:
        ways = kinds[arguments.kind](made, kind, arguments.threads)
    except (KeyError, Unsupported) as error:
        print(f"bench: {name} has no {kind} for {arguments.kind}: {error}", file=sys.stderr)
        return []
    return [fastest(each) for each in ways.values() if each]


_MODULES = {
    "onnxruntime": "onnx_fewer_bits",
    "openvino": "openvino_fewer_bits",
    "torch": "torch_fewer_bits",
    "fbgemm": "fbgemm_fewer_bits",
}
