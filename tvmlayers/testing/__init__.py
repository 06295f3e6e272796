"""Compiled models held against PyTorch: what `tvmlayers.verify` and the parity tests use."""

from tvmlayers.testing.bounds import Bounded, Difference, Rounding, compare
from tvmlayers.testing.rebuild import model_of, weights_of
from tvmlayers.testing.reference import Reference
from tvmlayers.testing.report import Report, Row
from tvmlayers.testing.verification import BATCHES, verify

__all__ = [
    "BATCHES",
    "Bounded",
    "Difference",
    "Reference",
    "Report",
    "Rounding",
    "Row",
    "compare",
    "model_of",
    "verify",
    "weights_of",
]
