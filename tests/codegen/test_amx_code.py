"""The machine code for AMX: what lies between its instructions."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.codegen.compiler import assembly
from tvmlayers.layers import as_model
from tvmlayers.schedule import Selector

LEAST = 8  # fewer between products leave the unit slow beside a busy hyperthread


@pytest.mark.parametrize(
    ("k", "n", "dtype"),
    [
        pytest.param(512, 256, "float32", id="parts of W packed"),
        pytest.param(1024, 1024, "float32", id="parts of W made"),
        pytest.param(1000, 1000, "float32", id="a part of a step, and of a panel"),
        pytest.param(100, 200, "bfloat16", id="bfloat16"),
    ],
)
def test_products_and_loads_of_tiles_keep_their_distance(k: int, n: int, dtype: str) -> None:
    target = targets.resolve("sapphirerapids")
    layer = tl.Dense(n, input_dim=k, dtype=dtype)
    code = assembly(as_model(layer), Selector(target, use_records=False))
    functions = [part for part in code.split("retq") if "tdpbf16ps" in part]
    assert len(functions) >= 2
    for function in functions:
        words = re.findall(r"^\t([a-z]\w*)", function, flags=re.M)
        places = [i for i, word in enumerate(words) if word in ("tdpbf16ps", "tileloadd")]
        assert dtype == "bfloat16" or words.count("tdpbf16ps") % 6 == 0
        between = [b - a - 1 for a, b in pairwise(places)]
        assert min(between) >= LEAST
