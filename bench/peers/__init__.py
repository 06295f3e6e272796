"""What we are compared with. A peer is one module, named in PEERS, imported only when asked for.

A peer's module has what `Peer` lists. Its `SIDES` holds a function for each kind of case that it
competes in: from the work to the ways it could do it, weights prepared as it likes best. Every way
is checked; the fastest is timed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from bench.settings import Settings
from bench.timing import Side

# A peer's module, and the packages that pip installs for it.
PEERS = {
    "torch": ("bench.peers.torch_eager", "torch"),
    "torch.compile": ("bench.peers.torch_compile", "torch"),
    "onnxruntime": ("bench.peers.onnx_runtime", "onnx onnxruntime"),
    "openvino": ("bench.peers.open_vino", "onnx openvino"),
    "fbgemm": ("bench.peers.fbgemm", "fbgemm-gpu-cpu"),
    "litert": ("bench.peers.lite_rt", "ai-edge-litert"),
    "zentorch": ("bench.peers.zen_torch", "zentorch"),
    "jax": ("bench.peers.jax_xla", "jax"),
    "untuned": ("bench.peers.untuned", "tvmlayers"),
}
OURSELVES = ("untuned",)


class Peer(Protocol):
    NAME: str
    SIDES: Mapping[str, Callable[[Any], list[Side]]]

    def version(self) -> str:
        """The peer's own version, for the conditions."""

    def set_up(self, settings: Settings) -> None:
        """Makes the peer run as the settings say; called before any of SIDES."""


class PeerError(RuntimeError):
    """A peer cannot be had: its name is not in PEERS, or its packages are not installed."""


class Unsupported(ValueError):
    """Raised by one of SIDES for a case that the peer does not do; the message says why."""


def load(names: Sequence[str]) -> list[Peer]:
    """The peers of these names, imported; "all" means the installed ones but ourselves."""
    if list(names) == ["all"]:
        return _installed([name for name in PEERS if name not in OURSELVES])
    wanted = list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in PEERS]
    if unknown:
        raise PeerError(f"no peer is called {unknown[0]!r}; known are {', '.join(PEERS)}")
    return [_import(name) for name in wanted]


def _installed(names: Sequence[str]) -> list[Peer]:
    """Those of the peers that can be imported; of the others a line says what is missing."""
    found = []
    for name in names:
        try:
            found.append(_import(name))
        except PeerError as error:
            print(f"bench: {error}", file=sys.stderr)
    return found


def only_float32(array: Any) -> None:
    """Unsupported unless the array is float32, which is all that most peers are fast at."""
    if array.dtype != "float32":
        raise Unsupported(f"float32 only, not {array.dtype}")


def _import(name: str) -> Peer:
    module, packages = PEERS[name]
    try:
        return cast(Peer, import_module(module))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("bench"):
            raise  # a mistake of ours, not a package that is missing
        raise PeerError(
            f"the peer {name!r} needs {error.name}, which is not installed; "
            f"pip install {packages}, or leave it out of --peers"
        ) from error
