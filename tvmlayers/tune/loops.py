"""The inner loops of AArch64 assembly, and the instructions in them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LABEL = re.compile(r"(\.L\w+):")
_BRANCH = re.compile(r"\s+(?:b\.\w+|b|cbn?z|tbn?z)\s+(?:.*,\s*)?(\.L\w+)\s*$")
_INSTRUCTION = re.compile(r"\s+[a-z]\w*(?:\.\w+)?\b")
_VECTOR = r"(?:q|v)\d+"


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop that holds no other, its branch back the last of them."""

    instructions: tuple[str, ...]

    @property
    def text(self) -> str:
        """As an assembler takes it."""
        return "\n".join(self.instructions)

    @property
    def multiply_adds(self) -> int:
        """Vector instructions that multiply and add."""
        return self.count(r"fmla\s")

    @property
    def multiply_add_words(self) -> int:
        """The same in 128 bits each: SVE's vectors are taken for 256."""
        return self.multiply_adds + self.count(r"fmla\s+z")

    @property
    def byte_products(self) -> int:
        """Vector instructions that multiply bytes and add four products to each sum."""
        return self.count(r"u?sdot\s")

    @property
    def additions(self) -> int:
        """Vector instructions that add."""
        return self.count(rf"fadd\s+{_VECTOR}")

    @property
    def loaded(self) -> int:
        """Whole vector registers that are loaded."""
        return self._moved("ld")

    @property
    def stored(self) -> int:
        """Whole vector registers that are stored."""
        return self._moved("st")

    @property
    def spills(self) -> int:
        """Instructions that read or write the stack."""
        return self.count(r".*\[sp\b")

    def count(self, pattern: str) -> int:
        """Instructions that begin with `pattern`."""
        return sum(re.match(rf"\s+{pattern}", line) is not None for line in self.instructions)

    def _moved(self, verb: str) -> int:
        return self.count(rf"{verb}u?r\s+q\d+") + 2 * self.count(rf"{verb}n?p\s+q\d+")


def inner_loops(assembly: str) -> list[Loop]:
    """All loops that hold no other loop, as they stand."""
    lines = assembly.splitlines()
    labels: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for place, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = place
        branch = _BRANCH.match(line)
        if branch and branch[1] in labels:
            spans.append((labels[branch[1]], place))
    inner = [
        (first, last)
        for first, last in spans
        if not any(
            first <= begin and end <= last and (begin, end) != (first, last) for begin, end in spans
        )
    ]
    return [
        Loop(tuple(line for line in lines[first : last + 1] if _INSTRUCTION.match(line)))
        for first, last in inner
    ]
