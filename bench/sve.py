"""GEMM inner loops with SVE's 256-bit registers as one would write them by hand, beside NEON's.

The best that a register tile of such vectors could be: nothing but the loads, the multiply-adds by
element and the loop, with no prefetch. No kernel is made of them; `bench.arm_static` models them,
which says what it would bring.
"""

from __future__ import annotations

from tvmlayers.tune.loops import Loop

VECTOR_BITS = 256  # of neoverse-v1
STEPS = 4  # of k in an iteration: one load brings four elements of a row to both halves
ELEMENT_REGISTERS = 8  # only z0 to z7 are multiplied by element
REGISTERS = 32
# Rows by vectors of 256 bits: eight sums at least, to hide the latency of a multiply-add.
TILES = ((1, 8), (2, 4), (3, 4), (4, 4), (6, 4))


def tile_loop(rows: int, vectors: int) -> Loop:
    """The loop over k of a float32 tile: sums in registers, x: (rows, k), a panel of W in a row."""
    assert rows <= ELEMENT_REGISTERS, "x is multiplied by element"
    assert rows * vectors + rows < REGISTERS, "it would spill"
    names = [f"z{i}" for i in range(REGISTERS)]
    x, rest = names[:rows], names[rows:]
    sums, w = rest[-rows * vectors :], rest[: -rows * vectors]
    lines = [f"ld1rqw {{{x[row]}.s}}, p0/z, [x{2 + row}, x9, lsl #2]" for row in range(rows)]
    for place in range(STEPS * vectors):
        step, vector = divmod(place, vectors)
        part = w[place % len(w)]
        lines.append(f"ldr {part}, [x1, #{place}, mul vl]")
        for row in range(rows):
            total = sums[row * vectors + vector]
            lines.append(f"fmla {total}.s, {part}.s, {x[row]}.s[{step}]")
    moved = STEPS * vectors
    lines += [f"addvl x1, x1, #{min(moved, 31)}"]
    lines += [f"addvl x1, x1, #{moved - 31}"] if moved > 31 else []
    lines += [f"add x9, x9, #{STEPS}", "cmp x9, x10", "b.ne .L"]
    return Loop(tuple(f" {line}" for line in lines))
