"""Into what blocks a schedule cuts its long sums, see `codegen.partial_sums`."""

from __future__ import annotations

import math

from tvm import s_tir

from tvmlayers.spaces.choices import SUM_BLOCKS

BLOCK = 192
"""Steps of a block: the errors in the blocks and in their sum balance for some ten thousand steps,
and adding a block up costs next to nothing beside its steps."""

MOST_BLOCKS = 32  # more are summed in blocks of blocks
# Of a length that only the call tells. Blocks of 8, as the sums of PyTorch are no more exact then.
LEVELS = (8, 8, 8, 16)


def cut_sum(
    sch: s_tir.Schedule, loop: s_tir.schedule.LoopRV, steps: int, block: int = BLOCK
) -> None:
    """Cut the sum of so many steps that `loop` goes over, some in each iteration, into blocks."""
    if steps <= block:
        return
    sizes = [block]
    count = steps // block
    if count > MOST_BLOCKS:
        sizes.append(math.isqrt(count))
    sch.annotate(loop, SUM_BLOCKS, [steps, *sizes])


def cut_open_sum(
    sch: s_tir.Schedule, loop: s_tir.schedule.LoopRV, sizes: tuple[int, ...] = LEVELS
) -> None:
    """Cut a sum of unknown length, a step in each iteration, into blocks of blocks."""
    sch.annotate(loop, SUM_BLOCKS, [0, *sizes])
