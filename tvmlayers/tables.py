"""The tables that the command line prints, made from plain records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table

from tvmlayers.printing import PlainTable, printable, styled
from tvmlayers.runtime.signature import shape_text

_MOST_LISTED = 8


def table(title: str | None, texts: Iterable[str], numbers: Iterable[str] = ()) -> Table:
    """An empty table: columns of text first, then columns of numbers aligned to the right."""
    made = PlainTable(title, title_justify="left")
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
        lacks = f"lacks {', '.join(row['lacks'])}" if row["lacks"] else f"no, {row['architecture']}"
        runs = styled("yes", "green") if row["runs_here"] else styled(lacks, "red")
        title = styled(row["name"], "bold" if row["native"] else "")
        made.add_row(
            title.append(" (native)", "not bold") if row["native"] else title,
            str(row["family"]),
            f"{row['vector_bits']} bit",
            runs,
            " ".join(features),
        )
    return made


def findings_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One row for each thing that was looked at on this machine."""
    made = table(None, ("to", "", "found"))
    for row in rows:
        mark = styled("yes", "green") if row["ok"] else styled("no", "red")
        advice = f"\n{row['advice']}" if row["advice"] else ""
        made.add_row(row["what"], mark, row["found"] + advice)
    return made


def gpus_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One row a kind of GPU, with the numbers of the card that the analytic choice uses."""
    texts = ("target", "architecture", "numbers of", "first GPU here")
    made = table(None, texts, ("multiprocessors", "second-level cache"))
    for row in rows:
        here = styled("yes", "green") if row["runs_here"] else "no"
        numbers = f"{row['multiprocessors']}", kib(row["l2"])
        made.add_row(styled(row["name"], "bold"), row["arch"], row["card"], here, *numbers)
    return made


def layers_table(manifest: Mapping[str, Any]) -> Table:
    """The layers of a saved model with their configurations."""
    made = table("Layers", ("layer", "class", "configuration"))
    for node in manifest["model"].get("layers", ()):
        config = {key: value for key, value in node["config"].items() if value is not None}
        made.add_row(
            str(config.pop("name", "")),
            str(node["class"]),
            ", ".join(f"{key}={_argument(value)}" for key, value in config.items()),
        )
    return made


def _argument(value: object) -> str:
    """An argument of a layer; of a long list, such as an array's, only how long it is."""
    if isinstance(value, list) and len(value) > _MOST_LISTED:
        return f"<{len(value)} values>"
    return str(value)


def entries_table(manifest: Mapping[str, Any]) -> Table:
    """The ways in which the compiled code can be called: a training step in one way."""
    made = table("Entries", ("symbol", "inputs", "outputs"))
    entries = manifest.get("entries")
    if entries is None:
        truths = [output["truth"] for output in manifest["outputs"]]
        made.add_row("step", _tensors([*manifest["inputs"], *truths]), f"loss: {manifest['loss']}")
    for entry in entries or ():
        made.add_row(entry["symbol"], _tensors(entry["inputs"]), _tensors(entry["outputs"]))
    return made


def resources_table(manifest: Mapping[str, Any]) -> Table:
    """What each kernel of an artefact for a GPU takes, as the compiler reported it."""
    made = table(
        "what the GPU's kernels take",
        ("kernel",),
        ("registers a thread", "shared bytes", "stack bytes", "spilled bytes"),
    )
    for name, row in manifest["cuda"]["resources"].items():
        spilled = row["spill_stores"] + row["spill_loads"]
        numbers = row["registers"], row["shared"], row["stack"], spilled
        made.add_row(name, *(f"{number:,}" for number in numbers))
    return made


def weights_table(manifest: Mapping[str, Any]) -> Table:
    """The packed weights as they lie in the arena."""
    made = table("Packed weights", ("weight", "dtype"), ("packed shape", "offset"))
    for weight in manifest["weights"]:
        shape = shape_text(weight["shape"])
        made.add_row(weight["name"], weight["dtype"], shape, str(weight["offset"]))
    return made


def kernel_blocks(manifest: Mapping[str, Any]) -> Iterator[RenderableType]:
    """A block for each kernel: what it is and costs, the decisions that all sizes of the batch have
    in common, and a line for each range of sizes: where its decisions came from, how much of the
    hardware's limit was reached when they were measured, and what differs."""
    if "kernels" not in manifest:
        return
    yield styled("Kernels", "table.title")
    for kernel in manifest["kernels"]:
        row = dict(kernel)
        groups = _grouped(row.pop("regimes", []))
        layer, kind, schedule = (str(row.pop(key, "")) for key in ("layer", "kind", "schedule"))
        batch = str(row.pop("batch", "batch"))
        cost = _cost(row)
        traits = " ".join(f"{key}={value}" for key, value in row.items())
        yield styled(f"{layer}: {kind} {traits}".rstrip(), "bold")
        about = f"for each of {batch}: {cost}" if cost else schedule
        yield Padding(styled(about), (0, 0, 0, 2))
        if groups:
            yield Padding(_ranges(batch, groups), (0, 0, 0, 2))


def _ranges(batch: str, groups: Sequence[tuple[int, Mapping[str, Any]]]) -> Table:
    every = [group["decisions"].items() for _, group in groups]
    common = [pair for pair in every[0] if all(pair in each for each in every)]
    made = PlainTable.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        made.add_column(no_wrap=True)
    made.add_column()
    made.add_row(batch, "schedule", "limit", _decisions(common))
    for first, group in groups:
        until = "" if group["up_to"] is None else str(group["up_to"])
        size = f"{first}" if until == str(first) else f"{first}..{until}"
        reached = (group.get("record") or {}).get("of_limit")
        limit = "" if reached is None else f"{reached:.0%}"
        differs = [pair for pair in group["decisions"].items() if pair not in common]
        made.add_row(size, _source(group), limit, _decisions(differs))
    return made


def _decisions(pairs: Iterable[tuple[str, Any]]) -> str:
    return " ".join(f"{name}={value}" for name, value in pairs)


def _cost(row: dict[str, Any]) -> str:
    """What one item of the batch costs, and the weights that a call reads; taken out of `row`."""
    flops, moved, weights = (
        row.pop(key, 0) for key in ("flops_per_item", "bytes_per_item", "weight_bytes")
    )
    parts = [f"{flops} FLOP" if flops else "", kib(moved) if moved else ""]
    parts.append(f"weights {kib(weights)}" if weights else "")
    return ", ".join(part for part in parts if part)


def _source(regime: Mapping[str, Any]) -> str:
    """Where the decisions came from; a record that was never measured says so.

    A near record is named by its sizes alone: its kind and dtype are the kernel's.
    """
    is_modelled = (regime.get("record") or {}).get("modelled")
    where, _, workload = str(regime["source"]).partition(" ")
    sizes = workload.partition(" ")[2].partition(":")[0]
    return f"{where} {sizes}".strip() + (" (modelled)" if is_modelled else "")


def _grouped(regimes: Iterable[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """(first size of batch, regime), neighbours from the same source as one, decided as the last.

    The analytic choice differs by a few rows here and there; the ends of its ranges tell nothing.
    """
    made: list[tuple[int, Mapping[str, Any]]] = []
    first = 1
    for regime in regimes:
        if made and made[-1][1]["source"] == regime["source"] == "analytic":
            made[-1] = (made[-1][0], regime)
        else:
            made.append((first, regime))
        first = (regime["up_to"] or 0) + 1
    return made


def records_table(title: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    """One row a tuned record, with its conditions; a TVM version other than ours is named."""
    made = table(title, ("workload", "schedule", "measured"), ("µs", "speed-up"))
    for row in rows:
        conditions = f"{row['threads']} threads, {row['trials']} trials, {row['date']}"
        if row.get("modelled"):
            conditions = f"modelled by {row['modelled']}, not measured; {conditions}"
        measured = styled(f"{row['target']}, {conditions}")
        if not row["usable"]:
            measured.append(", ").append_text(styled(f"TVM {row['tvm']}", "red"))
        made.add_row(
            _workload(row),
            _schedule(row),
            measured,
            f"{row['microseconds']:.4g}",
            f"{row['untuned_microseconds'] / row['microseconds']:.2f}x",
        )
    return made


def dropped_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One row a record that went, with the reason."""
    made = table("Dropped", ("target", "workload", "space", "reason"))
    for row in rows:
        made.add_row(row["target"], _workload(row), row["space"], row["reason"])
    return made


def changes_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One row a record that changed: its decisions as before -> after, and the times."""
    made = table("Changed", ("target", "workload", "schedule"), ("µs before", "µs", "ratio"))
    for row in rows:
        pairs = row["decisions"].items()
        arrows = {name: f"{before} -> {after}" for name, (before, after) in pairs}
        made.add_row(
            row["target"],
            _workload(row),
            _schedule({**row, "decisions": arrows}),
            f"{row['before_microseconds']:.4g}",
            f"{row['microseconds']:.4g}",
            f"{row['ratio']:.2f}",
        )
    return made


def _workload(row: Mapping[str, Any]) -> str:
    """The workload's name in words, which a narrow column breaks at."""
    return str(row["name"]).replace(":", " ")


def _schedule(row: Mapping[str, Any]) -> str:
    decisions = ", ".join(f"{name}={value}" for name, value in row["decisions"].items())
    return f"{row['space']}: {decisions}" if decisions else str(row["space"])


def _tensors(tensors: Iterable[Mapping[str, Any]]) -> str:
    names = [(printable(tensor["name"], keep=""), tensor) for tensor in tensors]
    return "\n".join(f"{name} {shape_text(t['shape'])} {t['dtype']}" for name, t in names)
