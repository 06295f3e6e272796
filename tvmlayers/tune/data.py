"""What a kernel is measured with: how indices are drawn, how long bags are, hot or cold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvmlayers.errors import ConfigError, unknown_name

DISTRIBUTIONS = ("uniform", "zipf")
DEFAULT_LENGTH = 32
_FORM = 'data has distribution ("uniform" or "zipf"), length (32 or "0..60") and cold (True, False)'


@dataclass(frozen=True)
class Data:
    """The conditions of a measurement.

    distribution: of the indices; lengths: the least and the most indices in a bag; cold: whether
    each call finds its data in memory instead of the caches.
    """

    distribution: str = "uniform"
    lengths: tuple[int, int] = (DEFAULT_LENGTH, DEFAULT_LENGTH)
    cold: bool = False

    def __post_init__(self) -> None:
        if self.distribution not in DISTRIBUTIONS:
            raise unknown_name("distribution", self.distribution, DISTRIBUTIONS)
        least, most = self.lengths
        if not 0 <= least <= most or most < 1:
            raise ConfigError(
                f"the length of a bag is a whole number from 1 on, or LEAST..MOST, "
                f"got {least}..{most}"
            )

    @property
    def mean_length(self) -> int:
        """Indices in a bag on average, at least 1."""
        return max(1, sum(self.lengths) // 2)

    @staticmethod
    def of(given: Data | Mapping[str, Any] | None) -> Data:
        """`Data.of({"distribution": "zipf", "length": 20})`; ConfigError for anything else."""
        if given is None:
            return Data()
        if isinstance(given, Data):
            return given
        if not isinstance(given, Mapping) or set(given) - {"distribution", "length", "cold"}:
            raise ConfigError(f"{_FORM}; got {given!r}")
        cold = given.get("cold", False)
        if not isinstance(cold, bool):
            raise ConfigError(f"{_FORM}; got cold={cold!r}")
        return Data(
            given.get("distribution", "uniform"),
            parse_length(given.get("length", DEFAULT_LENGTH)),
            cold,
        )

    def describe(self, kind: str) -> dict[str, Any]:
        """JSON-able: what of this matters to a kind of kernel, as records keep it."""
        made: dict[str, Any] = {"cold": self.cold}
        if kind in ("embedding", "bag"):
            made["distribution"] = self.distribution
        if kind == "bag":
            least, most = self.lengths
            made["length"] = most if least == most else f"{least}..{most}"
        return made


def parse_length(given: object) -> tuple[int, int]:
    """(least, most) of `20` or `"0..60"`."""
    least, dots, most = str(given).partition("..")
    if not least.isdecimal() or (dots and not most.isdecimal()):
        raise ConfigError(f"the length of a bag is a number such as 20, or 0..60, got {given!r}")
    return int(least), int(most if dots else least)
