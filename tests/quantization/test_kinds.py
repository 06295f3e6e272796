"""The names of kinds say what there is, and `quantize` makes them of what users ask for."""

from __future__ import annotations

import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers.quantization import Kind

GIVEN = [
    ({"weights": "int8"}, "int8"),
    ({"weights": "int4"}, "int4/32"),
    ({"weights": "int4", "granularity": "channel"}, "int4"),
    ({"weights": "int8", "granularity": 128, "activations": "int8"}, "int8/128:int8"),
    ({"weights": "int4", "granularity": 64, "activations": "int16"}, "int4/64:int16"),
    ({"weights": "bfloat16"}, "bfloat16"),
]


@pytest.mark.parametrize(("given", "name"), GIVEN)
def test_what_is_asked_for_has_a_name_and_stays_so(given: dict[str, object], name: str) -> None:
    layer = tl.quantize(tl.Dense(5, input_dim=200, seed=1), **given)  # type: ignore[call-overload]
    assert layer.stored == layer.get_config()["stored"] == name
    assert Kind.of(name).name == name
    again = tl.Dense.from_config(layer.get_config())
    assert again.stored == name
    shapes = [weight.shape for weight in layer.get_weights()]
    assert [weight.shape for weight in again.get_weights()] == shapes


def test_bits_scales_and_digits_follow_from_the_name() -> None:
    kind = Kind.of("int4/64:int16")
    assert (kind.bits, kind.groups(200), kind.digits, kind.is_codes) == (4, 4, 2, True)
    assert kind.weight_bytes(200, 10) == 1000 + 4 * 10 * 4
    assert Kind.of("int8").weight_bytes(200, 10) == 2000
    assert Kind.of("bfloat16").weight_bytes(200, 10) == 4000


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"weights": "int4", "granularity": 48}, tl.ConfigError, "32, 64 or 128.*got 48"),
        ({"weights": "int8", "granularity": True}, tl.ConfigError, "got True"),
        ({"weights": "float16", "granularity": 32}, tl.ConfigError, "for weights as int8 or int4"),
        ({"weights": "bfloat16", "activations": "int8"}, tl.ConfigError, "int8 or int4"),
        ({"weights": "int8", "activations": "int7"}, tl.UnknownNameError, "'int7'.*int8"),
        ({"activations": "int8"}, tl.ConfigError, "give weights="),
    ],
)
def test_what_does_not_go_together_is_refused(
    given: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        tl.quantize(tl.Dense(5, input_dim=64, seed=1), **given)  # type: ignore[call-overload]


def test_tables_have_no_groups_and_int4_takes_two_columns_a_byte() -> None:
    with pytest.raises(tl.ConfigError, match=r"no groups of steps.*keep its weights as 'int4'"):
        tl.Embedding(10, 4, stored="int4/32")
    with pytest.raises(tl.ConfigError, match=r"an even number of columns.*got 5.*as int8"):
        tl.quantize(tl.Embedding(10, 5), tables="int4")


def test_a_nan_is_refused_by_name_and_kind() -> None:
    layer = tl.Dense(5, input_dim=64, name="output")
    kernel = np.zeros((64, 5), np.float32)
    kernel[40, 3] = np.nan
    layer.set_weights([kernel, np.zeros(5, np.float32)])
    with pytest.raises(tl.WeightsError, match=r"'output' .*is nan at \(40, 3\), and int4 holds"):
        tl.quantize(layer, weights="int4")
