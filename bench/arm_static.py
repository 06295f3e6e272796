"""The inner loops that are generated for ARM cores, by llvm-mca's model: no ARM machine is needed.

Cycles per multiply-add of 128 bits, or per product of bytes, for register tiles, per row for
lookups and bags, beside what the core's ports allow; and spills. Modelled, not measured: there are
no caches and no memory in it. On a core with SVE, register tiles of its wider vectors are listed
beside NEON's.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tvmlayers import records, targets
from tvmlayers.errors import TvmLayersError
from tvmlayers.schedule import analytic
from tvmlayers.schedule.analytic import usual_tiles
from tvmlayers.spaces import gemm
from tvmlayers.targets import Target
from tvmlayers.workload import Workload

CORES = ("armv8-a", "cortex-a72", "neoverse-n1", "neoverse-v1")
# What the tallest tiles that are chosen by themselves must reach of the limit.
REQUIRED = {"cortex-a72": 0.80, "neoverse-n1": 0.85}
TALL = 4  # rows from which a tile has sums enough to hide the latency of a multiply-add
K = 512
NEAR_K = 16  # of a weight that stays in the caches near a core
COLUMNS = {"float32": (512, 10, 4), "float64": (512,)}
MANY_ROWS = 1024
CODES = ("int8", "int8:int16", "int8:int8", "int4/32", "int4/128:int8")
LOOKUPS = ("embedding 64", "embedding 128", "embedding 768", "bag 64 sum", "bag 128 sum")
TABLE_ROWS, INDICES = 100_000, 4096


@dataclass(frozen=True)
class StaticRow:
    """One inner loop: cycles and limit for each `unit`."""

    target: str
    kernel: str
    unit: str
    chosen: bool
    cycles: float
    limit: float
    of_limit: float
    spills: int
    instructions: int
    per_iteration: float


def run(names: Sequence[str] | None, path: Path | None) -> int:
    """0 where chosen tiles reach what is required, 1 where one does not, 2 where it cannot run."""
    try:
        from tvmlayers.tune import mca, static

        cores = [targets.resolve(name) for name in names or CORES]
        for core in cores:
            static.check_target(core)
        made = tile_rows, digit_rows, lookup_rows
        rows = [row for core in cores for rows_of in made for row in rows_of(core)]
        model = mca.version()
    except TvmLayersError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_table(rows, model))
    short = [row for row in rows if not is_enough(row)]
    for row in short:
        console.print(f"short: {row.target} {row.kernel}: {row.of_limit:.0%}, {row.spills} spills")
    if path is not None:
        conditions = {
            "modelled": model,
            "tvm": records.installed_tvm(),
            "date": datetime.date.today().isoformat(),
            "required": REQUIRED,
        }
        found: dict[str, Any] = {"conditions": conditions, "rows": [asdict(row) for row in rows]}
        path.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if short else 0


def is_enough(row: StaticRow) -> bool:
    """Whether a row is as required; what nothing is required of is."""
    is_tile = row.chosen and row.unit == "FMA" and "float32" in row.kernel
    if not is_tile:
        return True
    rows = gemm.Tile.of({"tile": row.kernel.split()[1]}).rows
    required = REQUIRED.get(row.target, 0) if rows >= TALL and "of 4 " not in row.kernel else 0
    return row.of_limit >= required and row.spills == 0


def tile_rows(core: Target) -> list[StaticRow]:
    """The register tiles for wide and narrow layers; `chosen` are those of the analytic choice."""
    from tvmlayers.tune import static

    made = []
    for dtype, columns in COLUMNS.items():
        for n in columns:
            chosen = {tile.name for tile in usual_tiles(K, n, dtype, core)}
            chosen |= {_chosen(m, NEAR_K, n, dtype, core) for m in range(1, TALL)}
            for tile in [*gemm.tiles(K, n, dtype, core), *gemm.sve_tiles(K, n, dtype, core)]:
                m = tile.rows if tile.rows <= 2 else MANY_ROWS
                workload = Workload.make("dense", m=m, k=K, n=n, dtype=dtype, activation="linear")
                decisions = {**analytic(workload, core), "tile": tile.name}
                cost = static.tile_cost(workload, core, decisions)
                kernel = f"tile {tile.name} of {n} columns, {dtype}"
                made.append(_row(core, kernel, "FMA", tile.name in chosen, cost))
    return made


def digit_rows(core: Target) -> list[StaticRow]:
    """The register tiles that multiply digits with codes, where the core multiplies bytes."""
    from tvmlayers.tune import static

    made = []
    for stored in CODES:
        traits = {"dtype": "float32", "activation": "linear", "stored": stored}
        workload = Workload.make("dense", m=MANY_ROWS, k=K, n=COLUMNS["float64"][0], **traits)
        decisions = analytic(workload, core)
        for tile in gemm.digit_tiles(workload, core):
            cost = static.tile_cost(workload, core, {**decisions, "tile": tile.name})
            chosen = tile.name == decisions["tile"]
            made.append(_row(core, f"tile {tile.name}, {stored}", "dot", chosen, cost))
    return made


def _chosen(m: int, k: int, n: int, dtype: str, core: Target) -> str:
    """The name of the tile that the analytic choice takes for m rows."""
    workload = Workload.make("dense", m=m, k=k, n=n, dtype=dtype, activation="linear")
    return str(analytic(workload, core)["tile"])


def lookup_rows(core: Target) -> list[StaticRow]:
    """Lookups and bags of several widths."""
    from tvmlayers.tune import static

    made = []
    for case in LOOKUPS:
        kind, width, *mode = case.split()
        sizes = {"indices": INDICES, "rows": TABLE_ROWS, "width": int(width), "dtype": "float32"}
        workload = Workload.make(kind, **sizes, **({"mode": mode[0]} if mode else {}))
        cost = static.row_cost(workload, core)
        made.append(_row(core, f"{case}, float32", "row", True, cost))
    return made


def _row(core: Target, kernel: str, unit: str, chosen: bool, cost: Any) -> StaticRow:
    return StaticRow(
        core.name,
        kernel,
        unit,
        chosen,
        round(cost.cycles, 3),
        round(cost.limit, 3),
        round(cost.of_limit, 3),
        cost.loop.spills,
        len(cost.loop.instructions),
        round(cost.work, 3),
    )


def _table(rows: Sequence[StaticRow], model: str) -> Table:
    table = Table(title=f"Inner loops by {model}: modelled, not measured", title_justify="left")
    for heading in ("core", "kernel", "chosen"):
        table.add_column(heading)
    for heading in ("cycles", "limit", "of the limit", "spills", "instructions"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.target,
            row.kernel,
            "yes" if row.chosen else "",
            f"{row.cycles:.3f} per {row.unit}",
            f"{row.limit:.3f}",
            f"{row.of_limit:.0%}",
            str(row.spills),
            str(row.instructions),
        )
    return table
