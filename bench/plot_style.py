"""One look for each side in every plot, legible without colour and to the colour-blind."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's palette.
SIDES = {
    "torch": ("#0072b2", "o"),
    "torch.compile": ("#56b4e9", "s"),
    "onnxruntime": ("#009e73", "^"),
    "openvino": ("#cc79a7", "D"),
    "fbgemm": ("#e69f00", "v"),
}
OTHER = ("#999999", "P")


def mark(peer: str) -> dict[str, Any]:
    """The colour and the marker of a peer, as keywords of matplotlib's `plot`."""
    colour, marker = SIDES.get(peer, OTHER)
    return {"color": colour, "marker": marker, "linestyle": "none"}


def conditions(found: dict[str, Any], dtype: str) -> str:
    """What a number depends on, in one line."""
    threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    return f"{dtype}, {threads}, {found['target']} on {found['native']}, {found['date'][:10]}"
