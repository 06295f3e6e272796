"""The machine code of the kernels is the pinned one: see `tests/pins.py`."""

from __future__ import annotations

import pins
import pytest

from tvmlayers import targets
from tvmlayers.operations import OPERATIONS, operation_of


def test_the_code_of_each_kernel_is_the_pinned_one() -> None:
    head, *pinned = pins.FILE.read_text(encoding="utf-8").splitlines()
    if head != f"# {pins.VERSIONS}":
        pytest.skip(f"pinned with {head[2:]}, and here is {pins.VERSIONS}")
    made = pins.pins()[1:]
    gone, new = set(pinned) - set(made), set(made) - set(pinned)
    assert made == pinned, (
        f"other code for {sorted({' '.join(line.split()[:2]) for line in gone ^ new})}; where that "
        "was meant: make pins"
    )


def test_each_lowering_for_cpus_and_each_cpu_target_is_pinned() -> None:
    lowerings = {row.cpu for row in OPERATIONS.values() if row.cpu is not None}
    assert lowerings <= {operation_of(layer).cpu for layer in pins.model().layers}
    lines = pins.FILE.read_text(encoding="utf-8").splitlines()[1:]
    assert {line.split()[0] for line in lines} == set(targets.TARGETS)


def listing(place: int, label: int, value: int) -> list[str]:
    """A function that loops and loads a constant, as LLVM writes it."""
    found = pins._functions(f"""
	.section	.rodata.cst4,"aM",@progbits,4
.LCPI{place}_0:
	.long	{value}                      # float 1
	.text
	.type	k{place}_dense_rows,@function
k{place}_dense_rows:                             # @k{place}_dense_rows
.Lfunc_begin{place}:
	vbroadcastss	.LCPI{place}_0(%rip), %ymm0
.LBB{place}_{label}:                                # =>This Inner Loop Header
	decq	%rax
	jne	.LBB{place}_{label}
	callq	__tvm_set_raised_{place}@PLT
	retq
.Lfunc_end{place}:
""")
    return found["dense/rows"]


def test_names_and_places_do_not_count_and_constants_do() -> None:
    assert len(listing(0, 1, 7)) == 7  # a label, five instructions, a number
    assert listing(0, 1, 7) == listing(3, 2, 7)
    assert listing(0, 1, 7) != listing(0, 1, 8)
