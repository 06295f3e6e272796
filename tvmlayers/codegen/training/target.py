"""What the kernels of a step decide: for vectors alone, and for the few rows of a block.

AMX would bring every weight into its own form again with each block of rows: weights that change
with each step are kept in no other.
"""

from dataclasses import replace

from tvmlayers.schedule import Regime, Selector
from tvmlayers.spaces.gemm import Tile
from tvmlayers.targets import Target
from tvmlayers.workload import Workload

# Rows from which on a block is taken as one of so many. As few as may be: each is compiled.
_ROWS = {1: 1, 8: 48}


def selector_for(target: Target) -> Selector:
    """Chooses the decisions; the analytic ones, as nothing was tuned for steps."""
    flags = tuple(flag for flag in target.cpu_flags if not flag.startswith("amx"))
    return Selector(replace(target, cpu_flags=flags), use_records=False)


def block_regimes(selector: Selector, workload: Workload) -> list[Regime]:
    """The decisions for all sizes of a block of rows."""
    made: list[Regime] = []
    ends = [*(least - 1 for least in _ROWS if least > 1), None]
    for (least, usual), most in zip(_ROWS.items(), ends, strict=True):
        chosen = selector.decide(workload.at(usual))
        if Tile.of(chosen.decisions).least > least:
            chosen = selector.decide(workload.at(least))
        made.append(Regime(most, chosen.decisions, chosen.source))
    return made
