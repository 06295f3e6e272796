"""How many trials a workload gets."""

from __future__ import annotations

from tvmlayers.errors import TuneError, unknown_name

EFFORTS = {"quick": 16, "standard": 64, "thorough": 512}


def trials_of(trials: int | None, effort: str) -> int:
    """`trials`, or those of the named effort; TuneError or UnknownNameError for a wrong one."""
    if effort not in EFFORTS:
        raise unknown_name("effort", effort, EFFORTS)
    if trials is None:
        return EFFORTS[effort]
    if type(trials) is not int or trials < 1:
        raise TuneError(f"trials is a whole number from 1 on, got {trials!r}")
    return trials
