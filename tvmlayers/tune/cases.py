"""Workloads by hand: `128x768x3072:gelu`, `1000000x64x4096:zipf`, `1000000x64x2048x100:sum`.

A dtype may come last, as in `128x768x3072:gelu:float16`; without one it is float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tvmlayers.dtypes import FLOAT_DTYPES
from tvmlayers.errors import ConfigError, unknown_name
from tvmlayers.layers.activations import ALIASES, NAMES
from tvmlayers.tune.data import DISTRIBUTIONS, Data, parse_length
from tvmlayers.workload import Workload

MODES = ("sum", "mean", "max", "min")


@dataclass(frozen=True)
class Case:
    """A workload and what it is measured with."""

    workload: Workload
    data: Data = field(default_factory=Data)

    def __str__(self) -> str:
        extra = [
            f"length {text}" if name == "length" else text
            for name, text in self.data.describe(self.workload.kind).items()
            if name != "cold" and text != "uniform"
        ]
        extra += ["cold"] if self.data.cold else []
        return " ".join([str(self.workload), *map(str, extra)])


def parse(kind: str, text: str, data: Data | None = None) -> Case:
    """The case that `text` describes; ConfigError says which form was expected.

    data: the conditions that `text` leaves open.
    """
    if kind not in _FORMS:
        raise unknown_name("kind of kernel", kind, _FORMS)
    form, pattern, make = _FORMS[kind]
    rest, _, last = text.strip().rpartition(":")
    rest, dtype = (rest, last) if last in FLOAT_DTYPES else (text.strip(), "float32")
    if re.fullmatch(pattern, rest) is None:
        raise ConfigError(
            f"a {kind} case looks like {form}, perhaps with a dtype "
            f"({', '.join(FLOAT_DTYPES)}) at the end; got {text!r}"
        )
    sizes, *words = rest.split(":")
    return make(sizes.split("x"), words, dtype, data or Data())


def form_of(kind: str) -> str:
    """What a case of this kind looks like, with an example."""
    return _FORMS[kind][0]


def _dense(sizes: list[str], words: list[str], dtype: str, data: Data) -> Case:
    name = words[0] if words else "linear"
    name = ALIASES.get(name, name)
    if name not in NAMES:
        raise unknown_name("activation", name, NAMES)
    m, k, n = map(int, sizes)
    return Case(Workload.make("dense", m=m, k=k, n=n, dtype=dtype, activation=name), data)


def _embedding(sizes: list[str], words: list[str], dtype: str, data: Data) -> Case:
    rows, width, indices = map(int, sizes)
    made = Workload.make("embedding", indices=indices, rows=rows, width=width, dtype=dtype)
    return Case(made, _with_words(words, data)[1])


def _bag(sizes: list[str], words: list[str], dtype: str, data: Data) -> Case:
    rows, width, bags = map(int, sizes[:3])
    mode, data = _with_words(words, data)
    if len(sizes) > 3:
        data = replace(data, lengths=parse_length(sizes[3]))
    indices = bags * data.mean_length
    made = Workload.make(
        "bag", indices=indices, rows=rows, width=width, dtype=dtype, mode=mode or "mean"
    )
    return Case(made, data)


def _softmax(sizes: list[str], _words: list[str], dtype: str, data: Data) -> Case:
    m, n = map(int, sizes)
    return Case(Workload.make("softmax", m=m, n=n, dtype=dtype), data)


def _with_words(words: list[str], data: Data) -> tuple[str | None, Data]:
    """The mode, if any, and the data with the distribution that the words name."""
    mode = None
    for word in words:
        if word in MODES:
            mode = word
        elif word in DISTRIBUTIONS:
            data = replace(data, distribution=word)
        else:
            raise unknown_name("mode or distribution", word, (*MODES, *DISTRIBUTIONS))
    return mode, data


_Make = Callable[[list[str], list[str], str, Data], Case]
_WORDS = r"(:[a-z_0-9]+)"
_FORMS: dict[str, tuple[str, str, _Make]] = {
    "dense": (
        "MxKxN:activation, as 128x768x3072:gelu",
        rf"\d+x\d+x\d+{_WORDS}?",
        _dense,
    ),
    "embedding": (
        "ROWSxWIDTHxINDICES:distribution, as 1000000x64x4096:zipf",
        rf"\d+x\d+x\d+{_WORDS}?",
        _embedding,
    ),
    "bag": (
        "ROWSxWIDTHxBAGSxLENGTH:mode:distribution, as 1000000x64x2048x100:sum:zipf",
        rf"\d+x\d+x\d+(x\d+(\.\.\d+)?)?{_WORDS}{{0,2}}",
        _bag,
    ),
    "softmax": ("MxN, as 256x1000", r"\d+x\d+", _softmax),
}
