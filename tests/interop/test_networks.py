"""A few of the random networks of `python -m tests.networks`."""

from __future__ import annotations

import pytest

from tests import networks


@pytest.mark.filterwarnings("ignore")  # those of the frameworks
@pytest.mark.parametrize("framework", networks.FRAMEWORKS)
@pytest.mark.parametrize("seed", [3, 40])
def test_random_networks_are_written_and_read_again(framework: str, seed: int) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(framework, framework))
    networks.check(seed, framework)
