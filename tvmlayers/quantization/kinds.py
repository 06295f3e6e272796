"""The names that say how a weight is kept in fewer bits, and what its layer does with its inputs.

"int8", "int4", "float16" and "bfloat16" are kept so. Of a Dense kernel "int4/32" has a scale for
each 32 steps of k, and "int8:int16" takes its inputs in 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tvmlayers.dtypes import HALF_DTYPES, numpy_dtype
from tvmlayers.errors import ConfigError, unknown_name

_CODE_BITS = {"int8": 8, "int4": 4}
KINDS = (*HALF_DTYPES, *_CODE_BITS)
GROUPS = (32, 64, 128)
USUAL_GROUPS = {"int4": 32}  # a scale for a whole column leaves too little of four bits
ACTIVATIONS = ("int16", "int8")
# Digits of eight bits that an input is taken in, where weights are codes.
_DIGITS = {"": 3, "int16": 2, "int8": 1}


@dataclass(frozen=True)
class Kind:
    """base: one of KINDS, or the layer's dtype; group: steps of k that share a scale, 0 for all;
    activations: one of ACTIVATIONS, or "" where inputs are as exact as in float32."""

    base: str
    group: int = 0
    activations: str = ""

    @staticmethod
    @cache
    def of(name: str) -> Kind:
        """The kind that `name` says; UnknownNameError or ConfigError where it is none."""
        weights, _, activations = name.partition(":")
        base, _, group = weights.partition("/")
        if activations and activations not in ACTIVATIONS:
            raise unknown_name("kind of activations", activations, ACTIVATIONS)
        if group and group not in map(str, GROUPS):
            raise ConfigError(
                f"a scale is for 32, 64 or 128 steps of k, or for a whole column; got {name!r}"
            )
        made = Kind(base, int(group or 0), activations)
        if (group or activations) and not made.is_codes:
            raise ConfigError(
                f"groups of steps and activations in fewer bits are for weights as int8 or int4, "
                f"got {name!r}"
            )
        return made

    @property
    def name(self) -> str:
        """As `of` takes it."""
        group = f"/{self.group}" if self.group else ""
        return self.base + group + (f":{self.activations}" if self.activations else "")

    @property
    def is_codes(self) -> bool:
        """Whether weights are whole numbers with scales."""
        return self.base in _CODE_BITS

    @property
    def bits(self) -> int:
        """Of a weight."""
        return _CODE_BITS.get(self.base) or numpy_dtype(self.base).itemsize * 8

    @property
    def digits(self) -> int:
        """Eight bits each, of an input that codes are multiplied with."""
        return _DIGITS[self.activations]

    def groups(self, k: int) -> int:
        """The scales that a column of k steps has."""
        return -(-k // self.group) if self.group else 1

    def weight_bytes(self, k: int, n: int) -> int:
        """Of a (k, n) kernel with its scales by groups."""
        scales = 4 * self.groups(k) * n if self.groups(k) > 1 else 0
        return -(-k * n * self.bits // 8) + scales
