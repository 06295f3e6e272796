"""Changes JSON in ways that a careless or hostile hand might."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any


class Raw(str):
    """JSON text that stands for itself, such as NaN or what no Python value gives."""


HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 64, 128, 1.0, 0.5, -0.0, 1e-320, 1e308, "", "x", "n", "0"),
    *(2**31, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30),
    *([], {}, [0], [None], ["n"], {"a": 1}, [[]], [1, 2, 3], "float32", "int64", "float99", "../x"),
    *(
        "\x1b[31m",
        "[/]",
        "\0",
        "a\nb",
        "é" * 300,
        "n-1",
        "n-9",
        "index",
        "value",
        "offsets",
        "cuda",
    ),
    *(Raw("NaN"), Raw("Infinity"), Raw("1e999"), Raw("-0"), Raw('"\\ud800"'), Raw("9" * 400)),
    *(Raw("9" * 5000), Raw("[" * 5000 + "]" * 5000), Raw('{"a":' * 500 + "1" + "}" * 500)),
)


def text_of(value: Any) -> str:
    """`value` as JSON; a `Raw` and a mapping as a list of `Pair` as they are."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {text_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(text_of, value)) + "]"
    return json.dumps(value)


def mutated(value: Any, rng: Random) -> tuple[Any, str]:
    """A changed copy of nested dicts and lists, and what was changed."""
    changed = copy.deepcopy(value)
    told = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(changed)
        if places:
            told.append(_change(places[rng.randrange(len(places))], places, rng))
    return changed, "; ".join(told)


Place = tuple[Any, Any, str]  # (container, key in it, path)


def _places(value: Any, path: str = "$") -> list[Place]:
    found: list[Place] = []
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        here = f"{path}.{key}" if isinstance(value, dict) else f"{path}[{key}]"
        found.append((value, key, here))
        found += _places(inner, here)
    return found


def _change(place: Place, places: list[Place], rng: Random) -> str:
    container, key, path = place
    old = container[key]
    kind = rng.choice(
        ("value", "value", "value", "remove", "other", "near", "key", "twice", "swap")
    )
    if kind == "remove":
        del container[key]
        return f"{path} removed"
    if kind == "other":  # a value of the right type, often, and in the wrong place
        like = [each for each in places if type(each[0][each[1]]) is type(old)]
        source = rng.choice(like)
        container[key] = copy.deepcopy(source[0][source[1]])
        return f"{path} = that of {source[2]}"
    if kind == "near" and type(old) in (int, float):
        container[key] = rng.choice((old + 1, old - 1, -old, old * 2, old + 128, old * 10**9))
        return f"{path} = {container[key]!r}"
    if kind == "key" and isinstance(container, dict):
        container[rng.choice(("x", f"{key}_", "kind", "name", ""))] = container.pop(key)
        return f"{path} renamed"
    if kind == "twice":
        if isinstance(container, list):
            container.insert(rng.randrange(len(container) + 1), copy.deepcopy(old))
            return f"{path} doubled"
        hostile = text_of(rng.choice(HOSTILE))
        container[key] = Raw(f"{text_of(old)}, {json.dumps(key)}: {hostile}")
        return f"{path} twice, then {hostile[:40]}"
    if kind == "swap" and isinstance(container, list):
        other = rng.randrange(len(container))
        container[key], container[other] = container[other], old
        return f"{path} swapped with {other}"
    container[key] = copy.deepcopy(rng.choice(HOSTILE))
    return f"{path} = {text_of(container[key])[:60]}"
