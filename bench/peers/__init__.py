"""What we are compared with. A peer is one module, named in PEERS, imported only when asked for.

A peer's module has what `Peer` lists. Its `SIDES` holds a function for each kind of case that it
competes in: from the work to the ways it could do it, weights prepared as it likes best. Every way
is checked; the fastest is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from bench.timing import Side

PEERS = {
    "torch": "bench.peers.torch_eager",
}


class Peer(Protocol):
    NAME: str
    SIDES: Mapping[str, Callable[[Any], list[Side]]]

    def version(self) -> str:
        """The peer's own version, for the conditions."""

    def set_threads(self, threads: int) -> None:
        """Makes the peer run on this many threads; called before any of SIDES."""


class UnknownPeerError(ValueError):
    """A peer's name that is not in PEERS."""


def load(names: Sequence[str]) -> list[Peer]:
    """The peers of these names, imported; "all" stands for every one in the table."""
    wanted = list(PEERS) if list(names) == ["all"] else list(names)
    unknown = [name for name in wanted if name not in PEERS]
    if unknown:
        raise UnknownPeerError(f"no peer is called {unknown[0]!r}; known are {', '.join(PEERS)}")
    return [cast(Peer, import_module(PEERS[name])) for name in wanted]
