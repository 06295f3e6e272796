"""How expressions can be mapped onto hardware: one schedule function for each kind of kernel.

A schedule function takes each choice with `choices.choose`; the choices of a kind of kernel and
their legal values are listed beside it and gathered here.
"""

from collections.abc import Callable

from tvmlayers.spaces import cuda_gemm, cuda_lookup, cuda_rows, gemm, lookup, rows
from tvmlayers.spaces.choices import Choices
from tvmlayers.targets import CudaTarget, Target
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


_CUDA_SPACES: dict[str, str] = {
    "dense": cuda_gemm.SPACE,
    "embedding": cuda_lookup.SPACE,
    "bag": cuda_lookup.SPACE,
    "softmax": cuda_rows.SPACE,
}
_CUDA_CHOICES: dict[str, Callable[[Workload, CudaTarget], Choices]] = {
    "dense": cuda_gemm.gemm_choices,
    "embedding": cuda_lookup.lookup_choices,
    "bag": cuda_lookup.lookup_choices,
    "softmax": cuda_rows.softmax_choices,
}


def space_of(kind: str, target: Target | CudaTarget) -> str:
    """The name of the space that a kind of kernel has on `target`."""
    return (_CUDA_SPACES if isinstance(target, CudaTarget) else SPACES)[kind]


def choices_of(workload: Workload, target: Target | CudaTarget) -> Choices:
    """What the kernel of `workload` may decide on `target`: the legal values of each choice."""
    if isinstance(target, CudaTarget):
        return _CUDA_CHOICES[workload.kind](workload, target)
    return _CHOICES[workload.kind](workload, target)
