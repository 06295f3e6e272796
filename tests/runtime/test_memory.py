"""Too little memory is said, with how much was wanted, and is not taken for damage."""

from __future__ import annotations

from pathlib import Path

import handmade
import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers.artifact import file as artifact
from tvmlayers.artifact.arena import allocate_arena

WEIGHT = 256 << 20

LOADS = """
import resource, sys
import tvmlayers as tl
import tvmlayers.runtime.compiled
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
try:
    tl.load(sys.argv[1])
except tl.HostMemoryError as error:
    assert isinstance(error, MemoryError)
    print(error)
"""


def test_too_little_memory_for_the_weights_says_how_much_was_wanted(tmp_path: Path) -> None:
    described = handmade.embedding_manifest()
    described["weights"].append(
        {"name": "large", "shape": [WEIGHT], "dtype": "uint8", "offset": handmade.ARENA_BYTES}
    )
    described["arena_bytes"] += WEIGHT
    path = tmp_path / "large.tvml"
    weights = {"embedding/embeddings": handmade.TABLE, "large": np.zeros(WEIGHT, np.uint8)}
    artifact.write(path, described, handmade.library(), weights)
    said = handmade.run_python(LOADS, path)
    assert f"{described['arena_bytes']:,} bytes of memory are needed" in said
    assert "damaged" not in said


@pytest.mark.parametrize("nbytes", [1 << 46, (1 << 63) - 1, 1 << 70])
def test_more_than_any_memory_is_an_error_of_ours(nbytes: int) -> None:
    with pytest.raises(tl.HostMemoryError, match=f"{nbytes:,} bytes"):
        allocate_arena(nbytes)


def test_an_arena_without_its_weights_is_damage(tmp_path: Path) -> None:
    described = handmade.embedding_manifest()
    described["weights"][0]["shape"] = [1 << 40, handmade.WIDTH]
    described["arena_bytes"] = (1 << 40) * handmade.WIDTH * 4
    path = tmp_path / "m.tvml"
    artifact.write(path, described, handmade.library(), {"embedding/embeddings": handmade.TABLE})
    with pytest.raises(tl.ArtifactError, match="differ on 'embedding/embeddings'"):
        artifact.read(path)


def test_an_error_of_the_disk_is_not_taken_for_damage(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        tl.load(tmp_path)
