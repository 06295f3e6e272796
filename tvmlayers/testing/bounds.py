"""How far rounding may take a result: a bound for each element, carried along the graph.

A result is never compared with a tolerance that somebody chose, nor with what a kernel's formula
happens to lose. Each step of the reference gives its value and the error that a stable evaluation
may have there, from the unit roundoff u = eps / 2, the condition of the function and the lengths of
the sums along the way:

- A sum of n products, with or without fused multiply-adds, is off by at most gamma(n) times the sum
  of |x_i y_i|. Certain is gamma(n) = n u / (1 - n u) (N. J. Higham, Accuracy and Stability of
  Numerical Algorithms, 2nd ed., SIAM 2002, section 3.1). From n = 36 on the smaller 6 sqrt(n) u is
  taken, which fails with a probability below 4e-8 n (N. J. Higham and T. Mary, A new approach to
  probabilistic rounding error analysis, SIAM J. Sci. Comput. 41(5), 2019, theorem 2.4). A long sum
  is stable when it is cut into blocks whose sums are added in pairs: n is then the length of a
  block and the number of times that pairs are made (Higham 2002, section 4.2).
- Errors that come in are passed on as independent ones: a sum of them weighted w has the root of
  sum (w_i e_i)^2. The certain sum |w_i e_i| grows by about sqrt(n) too much a layer: after three
  layers of 512 it would let any result of a sigmoid pass.
- What fewer bits change in weights is one error for all results, and no rounding: beside a model
  with float weights all errors are passed on by their certain sum. So they are behind inputs that
  are rounded to 16 or 8 bits: the error of one number goes into every column.
- An elementary function adds FUNCTION_ULPS of its own and moves by as much as it does when its
  argument moves by what came in. Where a formula must round its argument on the way to an
  exponential, its argument moves by so many roundings as well (mixed forward-backward stability,
  Higham 2002, section 1.5).
- A row of a softmax adds up to 1 however far its logits are off: its total has a bound of its own.
- Halves (float16, bfloat16) are computed with in float32, and what a layer gives is rounded once:
  half a unit in the half's last place on top. Their products are summed by tensor cores, which
  cut off at float32's last place instead of rounding (M. Fasi, N. J. Higham, M. Mikaitis and
  S. Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ Computer Science 7:e330, 2021):
  twice the error of a rounding, and with one sign, so that only the certain gamma holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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

SUM_BLOCK = 512
"""The terms that a stable sum may add one after another."""

FUNCTION_ULPS = 4
"""The error of an elementary function, in eps of its result: a few short polynomials and divisions
in a row. `docs/accuracy.md` has what the compiled ones were measured to have."""


@dataclass(frozen=True)
class Rounding:
    """The arithmetic of one dtype, that of float32 for a half."""

    eps: float
    largest: float  # number of the dtype itself
    smallest: float  # normal number: as much may be lost by underflow
    reference_share: float  # the reference's own error, in errors of the compiled code
    half: Limits | None = None  # of the dtype itself, where it is a half
    beside_floats: bool = False  # results are held against those of the weights before quantisation
    adds_up: bool = False  # errors that come in are not independent: their certain sum is passed on
    from_halves: bool = False  # what comes in was rounded to a half

    @classmethod
    def of(
        cls,
        dtype: str,
        *,
        beside_floats: bool = False,
        adds_up: bool = False,
        from_halves: bool = False,
    ) -> Rounding:
        """That of a float dtype; in float64 the reference rounds as coarsely itself."""
        own, computed = limits(dtype), limits(wide(dtype))
        share = 1.0 if dtype == "float64" else 0.0
        half = own if is_half(dtype) else None
        sums = beside_floats or adds_up
        return cls(
            computed.eps,
            own.largest,
            computed.smallest,
            share,
            half,
            beside_floats,
            sums,
            from_halves,
        )

    def gamma(self, n: int) -> float:
        """The error of a sum of n products, relative to the sum of their magnitudes."""
        if self.half is not None:
            lost = n * self.eps
        else:
            pairings = (max(n - 1, 0) // SUM_BLOCK).bit_length()
            steps = min(n, SUM_BLOCK) + pairings
            lost = min(float(steps), PROBABLE * sqrt(steps)) * self.eps / 2
        return lost / (1 - lost)

    def passed_on(self, left: Tensor, right: Tensor) -> Tensor:
        """How far left @ right moves where one of them is errors."""
        return self._summed(lambda: root_sum(left, right), lambda: left.abs() @ right.abs())

    def added(self, errors: Tensor, axes: tuple[int, ...]) -> Tensor:
        """How far a sum over axes, which stay with length 1, moves by errors of its terms."""
        return self._summed(
            lambda: errors.square().sum(axes, keepdim=True).sqrt(),
            lambda: errors.abs().sum(axes, keepdim=True),
        )

    def _summed(self, probable: Callable[[], Tensor], certain: Callable[[], Tensor]) -> Tensor:
        """What errors amount to of which these two bounds hold.

        Bounds of float32 are PROBABLE deviations of an error, and those of a sum are too. That of a
        half is what a single rounding can come to, sqrt(3) deviations of an error that lies
        anywhere in it.
        """
        if self.adds_up:
            return certain()
        if not self.from_halves:
            return probable()
        return (PROBABLE / sqrt(3) * probable()).minimum(certain())

    def stored(self, computed: Bounded) -> Bounded:
        """What a layer has computed, as it leaves it: infinite beyond the largest number of its
        dtype, and rounded where that is a half."""
        value = computed.value
        value = value.masked_fill(value > self.largest, float("inf"))
        value = value.masked_fill(value < -self.largest, float("-inf"))
        if self.half is None:
            return replace(computed, value=value)
        own = self.half.eps / 2 * (computed.value.abs() + computed.bound) + self.half.least
        return Bounded(value, computed.bound + own)

    @property
    def function(self) -> float:
        """The relative error of an elementary function."""
        return FUNCTION_ULPS * self.eps


@dataclass(frozen=True)
class Total:
    """A number for each row of a result that errors of the row's elements cannot move together.

    of: the numbers of a float64 tensor's rows; bound: how far compiled code may be from them.
    """

    of: Callable[[Tensor], Tensor]
    bound: float


@dataclass(frozen=True)
class Bounded:
    """A tensor of the reference and, in the same shape, how far compiled code may be from it.

    value: float64, or int64 for indices; bound: float64; total: of its rows, if they have one.
    """

    value: Tensor
    bound: Tensor
    total: Total | None = None

    @classmethod
    def exact(cls, value: Tensor) -> Bounded:
        """A value that compiled code has to the last bit."""
        return cls(value, value.new_zeros(value.shape, dtype=_double()))

    def first(self, rows: int) -> Bounded:
        """The first rows of it."""
        return replace(self, value=self.value[:rows], bound=self.bound[:rows])


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
    elements = _compare(got, want, rounding)
    if want.total is None or got.size == 0:
        return elements
    import torch

    wanted = want.total.of(want.value)
    bound = torch.full_like(wanted, want.total.bound)
    found = want.total.of(torch.from_numpy(got.astype(np.float64)))
    totals = _compare(found.numpy(), Bounded(wanted, bound), rounding)
    return max(elements, totals, key=lambda difference: difference.share)


def _compare(got: Array, want: Bounded, rounding: Rounding) -> Difference:
    exact = want.value.numpy()
    if exact.size == 0:
        return Difference()
    expected = np.where(np.abs(exact) > rounding.largest, np.copysign(np.inf, exact), exact)
    allowed = want.bound.numpy() * (1 + rounding.reference_share)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        found = got.astype(np.float64)
        same = (found == expected) | (np.isnan(found) & np.isnan(expected))
        # near the largest number rounding decides what becomes infinite
        overflow = np.isfinite(exact) & (np.abs(exact) + allowed > rounding.largest)
        same |= overflow & (found * np.sign(exact) >= np.abs(exact) - allowed)
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
