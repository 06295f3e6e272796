"""The tables that the command line prints, made from plain records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from tvmlayers.signature import shape_text


def table(title: str | None, texts: Iterable[str], numbers: Iterable[str] = ()) -> Table:
    """An empty table: columns of text first, then columns of numbers aligned to the right."""
    made = Table(title=title, title_justify="left")
    for heading in texts:
        made.add_column(heading, overflow="fold")
    for heading in numbers:
        made.add_column(heading, justify="right")
    return made


def kib(size: int) -> str:
    """A size in bytes as people read it: "812 B", "34.1 KiB", "2.4 MiB"."""
    if size < 1 << 10:
        return f"{size} B"
    if size < 1 << 20:
        return f"{size / (1 << 10):.1f} KiB"
    return f"{size / (1 << 20):.1f} MiB"


def targets_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One row a target; what this machine lacks is named."""
    made = table(None, ("target", "family", "vector", "runs here", "required CPU features"))
    listed_before: dict[str, set[str]] = {}
    for row in rows:
        # A level that contains an earlier one names it instead of repeating its features.
        features = list(row["features"])
        for name, contained in listed_before.items():
            if contained < set(row["features"]):
                features = [f"{name} +", *(f for f in row["features"] if f not in contained)]
        listed_before[row["name"]] = set(row["features"])
        runs = "[green]yes[/]" if row["runs_here"] else f"[red]lacks {', '.join(row['lacks'])}[/]"
        made.add_row(
            f"[bold]{row['name']}[/] (native)" if row["native"] else str(row["name"]),
            str(row["family"]),
            f"{row['vector_bits']} bit",
            runs,
            " ".join(features),
        )
    return made


def layers_table(manifest: Mapping[str, Any]) -> Table:
    """The layers of a saved model with their configurations."""
    made = table("Layers", ("layer", "class", "configuration"))
    for node in manifest["model"].get("layers", ()):
        config = {key: value for key, value in node["config"].items() if value is not None}
        made.add_row(
            str(config.pop("name", "")),
            str(node["class"]),
            ", ".join(f"{key}={value}" for key, value in config.items()),
        )
    return made


def entries_table(manifest: Mapping[str, Any]) -> Table:
    """The ways in which the compiled model can be called."""
    made = table("Entries", ("symbol", "inputs", "outputs"))
    for entry in manifest["entries"]:
        made.add_row(entry["symbol"], _tensors(entry["inputs"]), _tensors(entry["outputs"]))
    return made


def weights_table(manifest: Mapping[str, Any]) -> Table:
    """The packed weights as they lie in the arena."""
    made = table("Packed weights", ("weight", "dtype"), ("packed shape", "offset"))
    for weight in manifest["weights"]:
        shape = shape_text(weight["shape"])
        made.add_row(weight["name"], weight["dtype"], shape, str(weight["offset"]))
    return made


def kernels_table(manifest: Mapping[str, Any]) -> Table:
    """One row a kernel: where its schedule came from, and what was decided."""
    made = table("Kernels", ("layer", "kernel", "schedule", "details"))
    for kernel in manifest["kernels"]:
        row = dict(kernel)
        first = [str(row.pop(key, "")) for key in ("layer", "kind", "schedule")]
        decisions = row.pop("decisions", {})
        details = {**row, **decisions}
        made.add_row(*first, ", ".join(f"{key}={value}" for key, value in details.items()))
    return made


def _tensors(tensors: Iterable[Mapping[str, Any]]) -> str:
    return "\n".join(f"{t['name']} {shape_text(t['shape'])} {t['dtype']}" for t in tensors)
