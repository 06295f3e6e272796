"""How expressions can be mapped onto hardware: one schedule function for each kind of kernel.

A schedule function takes each choice with `choices.choose`; the choices of a kind of kernel and
their legal values are listed beside it and gathered here.
"""

from collections.abc import Callable

from tvmlayers.spaces import gemm, lookup, rows
from tvmlayers.spaces.choices import Choices
from tvmlayers.targets import Target
from tvmlayers.workload import Workload

SPACES: dict[str, str] = {
    "dense": gemm.SPACE,
    "embedding": lookup.SPACE,
    "bag": lookup.SPACE,
    "softmax": rows.SPACE,
}
_CHOICES: dict[str, Callable[[Workload, Target], Choices]] = {
    "dense": gemm.gemm_choices,
    "embedding": lookup.lookup_choices,
    "bag": lookup.lookup_choices,
    "softmax": rows.softmax_choices,
}


def choices_of(workload: Workload, target: Target) -> Choices:
    """What the kernel of `workload` may decide on `target`: the legal values of each choice."""
    return _CHOICES[workload.kind](workload, target)
