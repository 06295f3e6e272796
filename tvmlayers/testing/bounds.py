"""How far rounding may take a result: a bound for each element, carried along the graph.

A result is never compared with a tolerance that somebody chose. Each step of the reference gives
its value and the error that compiled code may have there, from the unit roundoff u = eps / 2 and
the lengths of the sums along the way:

- A sum of n products, in any order and with or without fused multiply-adds, is off by at most
  gamma(n) * sum |x_i y_i|. Certain is gamma(n) = n u / (1 - n u) (N. J. Higham, Accuracy and
  Stability of Numerical Algorithms, 2nd ed., SIAM 2002, section 3.1). From n = 36 on the smaller
  6 sqrt(n) u is taken, which fails with a probability below 4e-8 n (N. J. Higham and T. Mary, A new
  approach to probabilistic rounding error analysis, SIAM J. Sci. Comput. 41(5), 2019, theorem 2.4).
- Errors that come in are passed on as independent ones: a sum of them weighted w has the root of
  sum (w_i e_i)^2. The certain sum |w_i e_i| grows by about sqrt(n) too much a layer: after three
  layers of 512 it would let any result of a sigmoid pass.
- An elementary function adds FUNCTION_ULPS of its own and passes on what came in, times its slope.
- Halves (float16, bfloat16) are computed with in float32, and what a layer gives is rounded once:
  half a unit in the half's last place on top. Their products are summed by tensor cores, which
  cut off at float32's last place instead of rounding (M. Fasi, N. J. Higham, M. Mikaitis and
  S. Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ Computer Science 7:e330, 2021):
  twice the error of a rounding, and with one sign, so that only the certain gamma holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tvmlayers.dtypes import Limits, is_half, limits, wide

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]

PROBABLE = 6.0
"""Standard deviations: twice exp(-6^2 / 2) = 3e-8 is the chance of a larger error."""

FUNCTION_ULPS = 8
"""The error of an elementary function, in eps of its result: short polynomials, not correctly
rounded ones, a few of them in a row."""


@dataclass(frozen=True)
class Rounding:
    """The arithmetic of one dtype, that of float32 for a half."""

    eps: float
    largest: float  # number of the dtype itself
    smallest: float  # normal number: as much may be lost by underflow
    reference_share: float  # the reference's own error, in errors of the compiled code
    half: Limits | None = None  # of the dtype itself, where it is a half

    @classmethod
    def of(cls, dtype: str) -> Rounding:
        """That of a float dtype; in float64 the reference rounds as coarsely itself."""
        own, computed = limits(dtype), limits(wide(dtype))
        share = 1.0 if dtype == "float64" else 0.0
        half = own if is_half(dtype) else None
        return cls(computed.eps, own.largest, computed.smallest, share, half)

    def gamma(self, n: int) -> float:
        """The error of a sum of n products, relative to the sum of their magnitudes."""
        if self.half is not None:
            lost = n * self.eps
        else:
            lost = min(float(n), PROBABLE * sqrt(n)) * self.eps / 2
        return lost / (1 - lost)

    def stored(self, computed: Bounded) -> Bounded:
        """What a layer has computed, as it leaves it: rounded, where its dtype is a half."""
        if self.half is None:
            return computed
        value = computed.value
        magnitude = value.abs() + computed.bound
        own = self.half.eps / 2 * magnitude + self.half.least
        value = value.masked_fill(value > self.largest, float("inf"))
        value = value.masked_fill(value < -self.largest, float("-inf"))
        return Bounded(value, computed.bound + own)

    @property
    def function(self) -> float:
        """The relative error of an elementary function."""
        return FUNCTION_ULPS * self.eps


@dataclass(frozen=True)
class Bounded:
    """A tensor of the reference and, in the same shape, how far compiled code may be from it.

    value: float64, or int64 for indices; bound: float64.
    """

    value: Tensor
    bound: Tensor

    @classmethod
    def exact(cls, value: Tensor) -> Bounded:
        """A value that compiled code has to the last bit."""
        return cls(value, value.new_zeros(value.shape, dtype=_double()))


@dataclass(frozen=True)
class Difference:
    """How a result differs from the reference.

    absolute: the largest error; relative: that over the largest expected magnitude; tolerance: what
    was allowed where the error came closest to what was allowed; share: that error in tolerances,
    inf where one of two numbers is not finite and the other is, or another infinity.
    """

    absolute: float = 0.0
    relative: float = 0.0
    tolerance: float = 0.0
    share: float = 0.0
    place: tuple[int, ...] = ()
    got: float = 0.0
    expected: float = 0.0

    @property
    def is_rounding(self) -> bool:
        """Whether rounding explains the difference."""
        return self.share <= 1.0

    def __str__(self) -> str:
        return (
            f"at {self.place} expected {self.expected:.17g}, got {self.got:.17g}: "
            f"{self.share:.3g} times the tolerance {self.tolerance:.3g}"
        )


def root_sum(left: Tensor, right: Tensor) -> Tensor:
    """sqrt(left^2 @ right^2): what independent errors `left` amount to, weighted `right`."""
    return (left.square() @ right.square()).sqrt()


def compare(got: Array, want: Bounded, rounding: Rounding) -> Difference:
    """The difference between a result and what was wanted, both of one shape."""
    expected = want.value.numpy()
    if expected.size == 0:
        return Difference()
    expected = np.where(
        np.abs(expected) > rounding.largest, np.copysign(np.inf, expected), expected
    )
    allowed = want.bound.numpy() * (1 + rounding.reference_share)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = got.astype(np.float64)
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
        error = np.where(same, 0.0, np.abs(found - expected))
        error = np.where(np.isnan(error), np.inf, error)
        share = np.where(same, 0.0, error / allowed)
        share = np.where(np.isnan(share), np.inf, share)
    worst = np.unravel_index(int(share.argmax()), share.shape)
    magnitudes = np.abs(expected[np.isfinite(expected)])
    largest_error = float(error.max())
    scale = float(magnitudes.max(initial=0.0))
    return Difference(
        absolute=largest_error,
        relative=largest_error / scale if scale else largest_error,
        tolerance=float(allowed[worst]),
        share=float(share[worst]),
        place=tuple(int(at) for at in worst),
        got=float(found[worst]),
        expected=float(expected[worst]),
    )


def _double() -> Any:
    import torch

    return torch.float64
